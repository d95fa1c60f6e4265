"""The examples in docstrings call what exists, as it can be called; those with prompts give the shown results."""

import ast
import builtins
import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"invarlock": ROOT / "invarlock", "invarlock.packer": ROOT / "packer"}
# Examples that are command lines or printed text.
NOT_PYTHON = {"invarlock.cli.running", "invarlock.harness.selection.byoe", "invarlock.packer.verify.evidence"}
EXAMPLE = re.compile(r"Example::\n\n((?:    .*\n?|\n)+)")
# Names of standard modules, and values that an example takes as given, may be called too.
GIVEN = {"Path", "clock", "expression", "os", "print"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax trees of the product's modules by name."""
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(
            path.read_text()
        )
        for package, folder in PACKAGES.items()
        for path in sorted(folder.rglob("*.py"))
    }


@cache
def defined() -> dict[str, str]:
    """Return the module of each function and class at the top of a module; of several with one name, any."""
    return {
        node.name: name
        for name, tree in modules().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield inspect.cleandoc(ast.get_docstring(node) or "")


def examples() -> Iterator[tuple[str, str]]:
    """Yield each example without prompts, and the name of its module."""
    for name, tree in modules().items():
        for text in docstrings(tree):
            for found in EXAMPLE.finditer(text):
                if ">>>" not in found[1]:
                    yield name, textwrap.dedent(found[1]).replace("…", "...")


def called(module: str, code: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of functions and classes that an example does not make itself."""
    tree = ast.parse(code)
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in own | GIVEN:
            yield node.func.id, node


def mistakes(module: str, code: str) -> list[str]:
    """Return the calls of an example that name nothing of the product, or do not fit the signature."""
    wrong = []
    for name, call in called(module, code):
        if hasattr(builtins, name):
            continue
        here = importlib.import_module(module)
        target: Any = getattr(here, name, None)
        if target is None and name in defined():
            target = getattr(importlib.import_module(defined()[name]), name)
        if target is None:
            wrong.append(f"{name} does not exist")
            continue
        try:
            keywords = {str(one.arg): None for one in call.keywords}
            # an example may leave arguments out with an ellipsis
            short = any(isinstance(one, ast.Constant) and one.value is ... for one in call.args)
            bind = inspect.signature(target).bind_partial if short else inspect.signature(target).bind
            bind(*(None for _ in call.args), **keywords)
        except TypeError as error:
            wrong.append(f"{name}: {error}")
    return wrong


@pytest.mark.parametrize(
    ("module", "code"), [pytest.param(*one, id=one[0]) for one in examples() if one[0] not in NOT_PYTHON]
)
def test_an_example_calls_what_exists_as_it_can_be_called(module: str, code: str) -> None:
    assert mistakes(module, code) == []


def test_a_wrong_example_is_found() -> None:
    module = "invarlock.pages.numbers"

    assert mistakes(module, "change_text(1.0)") == []
    assert mistakes(module, "absent_text(1.0)") == ["absent_text does not exist"]
    assert mistakes(module, "change_text()") == ["change_text: missing a required argument: 'ratio'"]


@pytest.mark.parametrize(
    "module", [name for name, tree in modules().items() if any(">>>" in text for text in docstrings(tree))]
)
def test_an_example_with_prompts_gives_the_shown_results(module: str, tmp_path: Path) -> None:
    found = doctest.testmod(importlib.import_module(module), extraglobs={"folder": tmp_path, "Path": Path})

    assert (found.failed, found.attempted > 0) == (0, True)
