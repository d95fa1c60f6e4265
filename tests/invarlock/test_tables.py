"""The tuples of guards, metrics, edits and faults are complete, and no two of their members share a name."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from typing import Any

import pytest
from processes import python

import invarlock.edits
import invarlock.faults
import invarlock.guards
import invarlock.metrics
from invarlock.catalog.edit_specs import CleanSpec, parse_edit_spec, parse_scope
from invarlock.edits import EDITS
from invarlock.edits.edit import Edit
from invarlock.errors import EditError, UsageError
from invarlock.faults import FAULTS
from invarlock.faults.fault import Fault
from invarlock.faults.injection import inject_fault
from invarlock.guards import GUARDS
from invarlock.guards.guard import Guard
from invarlock.metrics import METRICS
from invarlock.metrics.metric import Metric
from invarlock.reports.policy import LEARNED_LIMITS, PARTS, resolve_policy
from invarlock.reports.tiers import tier_names
from invarlock.verdict.detectors import detect

TABLES = [
    (invarlock.guards, Guard, GUARDS),
    (invarlock.metrics, Metric, METRICS),
    (invarlock.edits, Edit, EDITS),
    (invarlock.faults, Fault, FAULTS),
]


def objects(package: Any, kind: type) -> list[Any]:
    """Return the objects of a kind that the modules of a package define."""
    names = [f"{package.__name__}.{row.name}" for row in pkgutil.iter_modules(package.__path__)]
    modules = [importlib.import_module(name) for name in names]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, kind)]
    return list({id(value): value for value in found}.values())


@pytest.mark.parametrize(("package", "kind", "table"), TABLES, ids=lambda value: getattr(value, "__name__", ""))
def test_every_object_that_a_module_defines_is_in_the_tuple(package: Any, kind: type, table: tuple[Any, ...]) -> None:
    assert {found.name for found in objects(package, kind)} == {member.name for member in table}
    assert len(objects(package, kind)) == len(table)


@pytest.mark.parametrize("table", [(*GUARDS, *METRICS), EDITS, FAULTS], ids=["judging", "edits", "faults"])
def test_no_two_members_share_a_name(table: tuple[Any, ...]) -> None:
    assert [name for name, count in Counter(member.name for member in table).items() if count > 1] == []


def test_no_two_guards_or_metrics_share_a_flag_a_detector_or_a_learned_limit() -> None:
    flags = [flag for part in PARTS for flag in part.flags]
    kinds = [kind.kind for part in PARTS for kind in part.detectors]
    probes = [guard.probe.name for guard in GUARDS if guard.probe is not None]
    blocks = [learnt.block for learnt in LEARNED_LIMITS]

    for names in (flags, [*kinds, *probes], blocks, [learnt.limit for learnt in LEARNED_LIMITS]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("tier", tier_names())
def test_every_guard_and_metric_with_limits_has_them_in_every_tier(tier: str) -> None:
    policy = resolve_policy(tier, "dev", {})

    assert set(policy) == {part.name for part in PARTS if not isinstance(part, Guard) or part.has_limits}
    for part in PARTS:
        for fitted in part.fitted:
            owner, _, limit = fitted.limit.partition(".")
            assert owner == part.name
            assert limit in policy[owner]
        assert {learnt.owner for learnt in part.learned} <= {part.name}


def test_an_unknown_name_is_an_error_in_every_table(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="unknown edit 'quant_rnt'"):
        parse_edit_spec("quant_rnt:4:32:ffn")
    with pytest.raises(EditError, match="fault 'nan_injections' is unknown"):
        inject_fault("nan_injections", tmp_path, tmp_path / "subject", {})
    with pytest.raises(Exception, match="detector kind 'spectral_caps' is unknown"):
        detect({"kind": "spectral_caps"}, {})
    with pytest.raises(UsageError, match="is not a limit"):
        resolve_policy("balanced", "dev", {"spectrum.max_caps": 1})


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_edit_reads_its_own_ladder_and_its_own_scopes(edit: Edit) -> None:
    for rung in [] if edit.ladder is None else edit.ladder(64):
        text = ":".join([edit.name, *map(str, rung.values()), "ffn"])

        spec = parse_edit_spec(text)

        assert not isinstance(spec, CleanSpec)
        assert dict(spec.parameters) == dict(rung)
    # an edit has a scope, or takes the whole model and says what it may change
    assert edit.takes_weights == (bool(edit.family_scope) != bool(edit.touches))
    assert {parse_scope(family, where="test").family for family in edit.family_scope} == set(edit.family_scope)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("invarlock.settings", ("numpy", "torch", "jsonschema_rs")),
        ("invarlock.catalog.edit_specs", ("numpy", "torch")),
        ("invarlock.reports.derivation", ("torch", "pytest")),
    ],
)
def test_a_table_is_read_without_the_libraries_that_compute(module: str, heavy: tuple[str, ...]) -> None:
    command = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"

    done = python("-c", command)

    assert done.stdout.strip() == "[]", done.stderr
