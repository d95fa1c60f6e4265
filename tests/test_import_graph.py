"""The imports of the product, counted wherever they stand: at the top, in functions and for types only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "invarlock": ROOT / "invarlock",
    "invarlock.packer": ROOT / "packer",
    "invarlock.contracts": ROOT / "contracts",
}
Graph = Mapping[str, set[str]]


def test_no_module_imports_itself_through_others() -> None:
    graph = import_graph({name: path.read_text() for name, path in modules().items()})

    assert len(graph) > 150
    assert graph["invarlock.harness.plugin"] >= {"invarlock.harness.session", "invarlock.settings"}
    assert cycle(graph) is None


def test_a_cycle_through_imports_in_functions_and_for_types_is_found() -> None:
    first = "def late():\n    from invarlock.two import x\n"
    second = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from invarlock import one\n"

    assert cycle(import_graph({"invarlock.one": first, "invarlock.two": second})) is not None
    assert cycle(import_graph({"invarlock.one": first, "invarlock.two": ""})) is None


def test_every_import_in_a_function_has_its_reason() -> None:
    bare = [place for path in modules().values() for place in unexplained(path)]

    assert bare == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n    import torch\n", [2]),
        ("def f():\n    # takes seconds to start\n    import torch\n    import numpy\n", []),
        ("def f():\n    # takes seconds to start\n    import torch\n    x = 1\n    import numpy\n", [5]),
        ("def f():\n    import torch  # an optional extra\n", []),
        ("def f():\n    import torch  # noqa: F401\n", [2]),
        ("import torch\n", []),
    ],
)
def test_an_import_is_explained_by_the_comment_above_its_block(source: str, expected: list[int]) -> None:
    assert list(bare_lines(source)) == expected


def modules() -> dict[str, Path]:
    """Return the files of the product by the name that each is imported as."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
            found[".".join([package, *parts])] = path
    return found


def import_graph(sources: Mapping[str, str]) -> Graph:
    """Return which modules each module imports, of those given."""
    return {name: {found for found in _imported(text, sources) if found != name} for name, text in sources.items()}


def cycle(graph: Graph) -> list[str] | None:
    """Return the modules of an import cycle, None where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def unexplained(path: Path) -> Iterator[str]:
    for line in bare_lines(path.read_text()):
        yield f"{path.relative_to(ROOT)}:{line}"


def bare_lines(source: str) -> Iterator[int]:
    """Yield the lines of imports in functions that stand below no comment and no other import."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for statement in ast.walk(node):
                if isinstance(statement, ast.Import | ast.ImportFrom) and not _explained(lines, statement.lineno):
                    yield statement.lineno


def _explained(lines: list[str], number: int) -> bool:
    above, own = lines[number - 2].strip(), lines[number - 1].partition("  # ")[2]
    if above.startswith("#") or (own and not own.startswith(("type:", "noqa"))):
        return True
    return _is_import(lines, number - 1) and _explained(lines, _start_of_import(lines, number - 1))


def _is_import(lines: list[str], number: int) -> bool:
    return lines[_start_of_import(lines, number) - 1].strip().startswith(("import ", "from "))


def _start_of_import(lines: list[str], number: int) -> int:
    """Return the first line of an import that may end on a line of its own with a parenthesis."""
    while lines[number - 1].strip() in {")", ""} or lines[number - 1].strip().endswith(","):
        number -= 1
    return number


def _imported(text: str, known: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            # a name that is no module is taken from the module itself
            names = [member if member in known else node.module for member in members]
        else:
            continue
        yield from (name for name in names if name in known)
