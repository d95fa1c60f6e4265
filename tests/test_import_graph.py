"""The imports of the product, counted wherever they stand: at the top, in functions and for types only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
# Modules that start a command or pytest: `--help` and `--collect-only` need not load what their functions import.
ENTRIES = {
    "invarlock.task_records.command",
    "invarlock.packer.commands",
    "invarlock.harness.plugin",
    "invarlock.harness.session",
}


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


def test_every_import_in_a_function_saves_start_up_time() -> None:
    sources = {name: path.read_text() for name, path in modules().items()}

    without = [f"{name}: {found}" for name, found, added in late_imports(sources) if not added and not _is_entry(name)]

    assert without == [], "it loads no package that its module has not loaded already: import it at the top"


def test_an_import_in_a_function_that_loads_nothing_new_is_found() -> None:
    sources = {
        "invarlock.heavy": "import torch\n",
        "invarlock.light": "import json\n",
        "invarlock.user": "def late():\n    import invarlock.heavy\n    import invarlock.light\n    import yaml\n",
        "invarlock.other": "import torch\ndef late():\n    from invarlock import heavy\n",
    }

    assert list(late_imports(sources)) == [
        ("invarlock.user", "invarlock.heavy", {"torch"}),
        ("invarlock.user", "invarlock.light", set()),
        ("invarlock.user", "yaml", {"yaml"}),
        ("invarlock.other", "invarlock.heavy", set()),
    ]


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
    """Return the modules of an import cycle, or None if there is no cycle."""
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


def _is_entry(name: str) -> bool:
    return name in ENTRIES or name.startswith("invarlock.cli.")


def late_imports(sources: Mapping[str, str]) -> Iterator[tuple[str, str, set[str]]]:
    """Yield each import in a function: its module, what it imports, and the packages that are loaded only by it."""
    above = {name: set(_names(_at_the_top(ast.parse(text).body), sources)) for name, text in sources.items()}
    for name, text in sources.items():
        loaded = _packages(above[name] | {name}, above)
        functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
        for found in dict.fromkeys(found for node in functions for found in _names(ast.walk(node), sources)):
            yield name, found, _packages({found}, above) - loaded


def _at_the_top(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from () if "TYPE_CHECKING" in ast.unparse(node) else _at_the_top(node.body)
        else:
            yield node


def _packages(names: set[str], above: Graph) -> set[str]:
    """Return the packages of others that are loaded when these modules are imported."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += above.get(name, ())
    return {name.partition(".")[0] for name in found - above.keys()} - sys.stdlib_module_names - {"invarlock"}


def _imported(text: str, known: Mapping[str, str]) -> Iterator[str]:
    yield from (name for name in _names(ast.walk(ast.parse(text)), known) if name in known)


def _names(nodes: Iterable[ast.AST], known: Mapping[str, str]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            # a name that is no module is taken from the module itself
            yield from (member if member in known else node.module for member in members)
