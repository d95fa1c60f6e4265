"""The shipped schemas are what the parts of guards, metrics and edits give."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from invarlock.catalog.edit_specs import EDIT_NAMES
from invarlock.guards import GUARD_NAMES
from invarlock.jsonio import dump_json
from invarlock.reports.policy import CORE_GUARDS
from invarlock.reports.schemas import assembled

ROOT = Path(__file__).parents[3]
# Where a guard is measured and judged, and where the measurements of one pass over the tensors are kept apart.
OWN = ("guards", "metrics", "measuring", "evaluation/checkpoint_facts.py", "evaluation/activations.py")


def test_the_shipped_schemas_follow_from_the_parts() -> None:
    stale = [path.name for path, document in assembled(ROOT / "contracts") if json.loads(path.read_bytes()) != document]

    assert stale == [], "python -m invarlock.reports.schemas writes them"


def test_a_part_that_was_changed_by_hand_is_put_right(tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    shutil.copytree(ROOT / "contracts", folder)
    path = folder / "evaluation_report.schema.json"
    document = json.loads(path.read_bytes())
    del document["properties"]["rmt"]
    document["properties"]["spectral"]["additionalProperties"] = True
    document["properties"]["kurtosis"] = document["properties"]["variance"]
    document["properties"]["guards"]["items"]["enum"].append("kurtosis")
    document["required"].append("kurtosis")
    path.write_bytes(dump_json(document))

    found = dict(assembled(folder))[path]

    assert dump_json(found) == (ROOT / "contracts" / path.name).read_bytes()


def branching_lines(tree: ast.AST, names: frozenset[str]) -> Iterator[int]:
    """Yield the lines that ask which of several something is: a comparison with a name, or a table by names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            constants = {part.value for part in (node.left, *node.comparators) if isinstance(part, ast.Constant)}
            if names & {value for value in constants if isinstance(value, str)}:
                yield node.lineno
        if isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
            if len(names & keys) > 1:
                yield node.lineno


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (frozenset(GUARD_NAMES) | frozenset(CORE_GUARDS), OWN),
        (frozenset(EDIT_NAMES) - {"noop"}, ("edits",)),
    ],
)
def test_no_other_module_branches_on_names_of_guards_or_edits(names: frozenset[str], own: tuple[str, ...]) -> None:
    branching = []
    for room in ("invarlock", "packer"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if not path.relative_to(ROOT / room).as_posix().startswith(own):
                branching += [
                    f"{path.relative_to(ROOT)}:{line}" for line in branching_lines(ast.parse(path.read_text()), names)
                ]

    assert branching == []
