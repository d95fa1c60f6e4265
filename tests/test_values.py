"""Values are frozen: what one step found, no later step changes."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What is filled step by step, or holds something open; each says so in its docstring or its name.
CHANGING = {
    "FoundReports",
    "LimitMeasurements",
    "Listing",
    "Lot",
    "MovedWeights",
    "PackFolder",
    "RecentTensors",
    "_Chunk",
    "_Search",
    "_Stored",
    "_Target",
}


def not_frozen(path: Path) -> Iterator[str]:
    """Yield the name of each dataclass of a module that is not frozen."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            name = call.func if call is not None else decorator
            given = {word.arg: ast.unparse(word.value) for word in call.keywords} if call is not None else {}
            if ast.unparse(name).rpartition(".")[2] == "dataclass" and given.get("frozen") != "True":
                yield node.name


def test_every_dataclass_is_frozen_but_for_those_that_are_filled_step_by_step() -> None:
    paths = [*(ROOT / "invarlock").rglob("*.py"), *(ROOT / "packer").rglob("*.py")]

    assert {name for path in paths for name in not_frozen(path)} == CHANGING
