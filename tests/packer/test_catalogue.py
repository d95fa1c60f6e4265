"""Packs whose scenarios require less than the catalogue of their version."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.format.documents import Manifest
from invarlock.packer.verify.catalogue import MAX_LINES, catalogue_warnings
from packs import SCENARIOS, TIME, VERDICT, content, strict

from invarlock import __version__
from invarlock.jsonio import dump_json

ROOT = Path(__file__).parents[2]


def made_by(version: str | None) -> Manifest:
    """Return a manifest with only the version that made the pack."""
    return cast(Manifest, {} if version is None else {"invarlock_version": version})


MADE_BY_US = made_by(__version__)


def weakened(run: Path, key: Any, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Build a pack of a run with a changed plan, as its maker could."""
    whole = content(run)
    plan = json.loads(whole.files[SCENARIOS])
    for row in plan["scenarios"]:
        change(row)
    files = {**whole.files, SCENARIOS: dump_json(plan)}
    return build_pack(path, replace(whole, files=files, claimed_verdict=None), key, TIME).path


def ask_nothing(row: dict[str, Any]) -> None:
    row["strictness"] = "informational"
    row["requirements"].update(detectors_all_of=[], detectors_any_of=[], primary_guard_required=False)


def test_a_pack_without_requirements_counts_nothing_and_is_no_strong_evidence(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    pack = weakened(run, real_run.key, tmp_path / "pack", ask_nothing)

    result = strict(pack)

    assert result.code == 0
    counts = json.loads((pack / VERDICT).read_bytes())["counts"]
    assert (counts["informational_total"], counts["error_injection_detected"]) == (3, 0)
    assert (
        "3 cases: 3 informational (2 edits, 1 fault), which do not affect the verdict."
        in (pack / "results/final_verdict.txt").read_text()
    )
    assert "a clean edit that must pass" in result.missing_for_strong
    assert "a fault or a destructive edit that the gates must catch" in result.missing_for_strong
    assert sum("differs from the catalogue" in line for line in result.warnings) == 3
    (line,) = [line for line in result.warnings if "scenario noop_control differs" in line]
    assert "strictness is informational, not must_pass" in line


def test_a_name_of_the_catalogue_for_another_edit_is_reported() -> None:
    (row,) = [row for row in catalogue() if row["id"] == "quant_4bit_clean"]
    row["generation"]["edit_spec"] = "noop"

    (line,) = catalogue_warnings(MADE_BY_US, {"scenarios": [row]})

    assert line.startswith("scenario quant_4bit_clean differs from the catalogue")
    assert '"edit_spec": "noop"' in line


def test_the_order_of_fields_is_no_difference() -> None:
    rows = catalogue()
    turned = [json.loads(json.dumps(row, sort_keys=True)) for row in rows]
    for row in turned:
        row["requirements"] = dict(reversed(row["requirements"].items()))
        row["generation"] = dict(reversed(row["generation"].items()))

    assert catalogue_warnings(MADE_BY_US, {"scenarios": turned}) == []


@pytest.mark.parametrize(("length", "shown"), [(120, 120), (121, 117)])
def test_of_a_long_value_only_the_beginning_is_shown(length: int, shown: int) -> None:
    (row,) = [row for row in catalogue() if row["id"] == "noop_control"]

    (line,) = catalogue_warnings(MADE_BY_US, {"scenarios": [{**row, "strictness": "x" * length}]})

    assert (line.count("x" * shown), "x" * (shown + 1) in line) == (1, False)


def test_the_catalogue_does_not_differ_from_itself_and_other_versions_are_not_compared() -> None:
    rows = [{**row, "strictness": "informational"} for row in catalogue()]

    assert catalogue_warnings(MADE_BY_US, {"scenarios": catalogue()}) == []
    assert len(catalogue_warnings(MADE_BY_US, {"scenarios": rows})) == MAX_LINES + 1
    assert catalogue_warnings(made_by("9.9.9"), {"scenarios": rows}) == []
    assert catalogue_warnings(made_by(None), {"scenarios": rows}) == []


def test_own_scenarios_are_named_and_own_checkpoints_are_not() -> None:
    (row,) = [row for row in catalogue() if row["id"] == "noop_control"]
    own = [{**row, "id": f"own_{number}"} for number in range(7)]
    own_checkpoint = {**row, "id": "byoe", "generation": {"kind": "brought", "edit_label": "custom"}}

    (line,) = catalogue_warnings(MADE_BY_US, {"scenarios": [*own, own_checkpoint]})

    assert line.endswith(": own_0, own_1, own_2, own_3, own_4 and 2 more")


def test_an_honest_pack_has_no_warning_about_its_scenarios(real_run: Any, swept_run: Any) -> None:
    for pack in (real_run.pack, swept_run.pack):
        assert not [line for line in strict(pack).warnings if "catalogue" in line]


def catalogue() -> list[dict[str, Any]]:
    """Return a new copy of the catalogue's rows without sweeps, which a test may change."""
    rows: list[dict[str, Any]] = json.loads((ROOT / "suites/scenarios.json").read_bytes())["scenarios"]
    return [row for row in rows if "sweep" not in row]


@pytest.mark.parametrize("name", ["tests", "suites", "benchmarks", "docs"])
def test_nothing_else_of_a_checkout_is_a_part_of_the_package(name: str) -> None:
    with pytest.raises(ImportError):
        __import__(f"invarlock.{name}")
