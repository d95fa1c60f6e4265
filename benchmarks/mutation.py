"""Mutants of a module: its source with one thing changed that a test should notice.

Most operators are those of cosmic-ray. Three kinds that it lacks are defined here, because such mutants had survived:
``any`` swapped with ``all`` and the like; conditions that are always or never true; and a list element, keyword
argument or call statement that is removed. Annotations are not changed, because nothing evaluates them.
"""

from __future__ import annotations

import ast
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

# The first two operators need the names of variables. The third makes modules of dataclasses fail to import.
LEFT_OUT = ("core/VariableInserter", "core/VariableReplacer", "core/RemoveDecorator")
SWAPPED = {"any": "all", "all": "any", "min": "max", "max": "min", "sorted": "list"}
Span = tuple[int, int, int, int]
# A Place is the line, column and kind of a change. A Make returns the changed source, or None if nothing can change.
Place = tuple[int, int, str]
Make = Callable[[], str | None]


@dataclass(frozen=True)
class Mutant:
    """A changed module: the line and kind of the change, and the whole source."""

    line: int
    kind: str
    source: str


def sample_mutants(source: str, number: int | None, seed: int) -> list[Mutant]:
    """Return randomly drawn mutants of a module, ordered by line.

    A place has many mutants of one kind (``<`` as ``<=``, ``==``, ``!=`` ...), and most are easy to detect. One mutant
    is drawn for each place and kind, so that the share of killed mutants is the share of places that tests check.

    Args:
        source: the module's source.
        number: how many mutants to return; None for one of each place and kind.
        seed: seed of the random draws.
    """
    draw = random.Random(seed)
    places: dict[Place, list[Make]] = defaultdict(list)
    for place, make in [*_of_cosmic_ray(source), *_own(source)]:
        places[place].append(make)
    order = sorted(places)
    draw.shuffle(order)
    chosen: list[Mutant] = []
    for place in order:
        if number is not None and len(chosen) == number:
            break
        draw.shuffle(places[place])
        made = (make() for make in places[place])
        changed = next((text for text in made if text not in (None, source) and _compiles(text)), None)
        if changed is not None:
            chosen.append(Mutant(place[0], place[2], changed))
    return sorted(chosen, key=lambda mutant: (mutant.line, mutant.kind))


def _of_cosmic_ray(source: str) -> Iterator[tuple[Place, Make]]:
    annotations, tree = [*_annotations(source), *_separators(source)], get_ast(source)
    for name in sorted(operator_names()):
        if name in LEFT_OUT:
            continue
        operator = get_operator(name)()
        kind = name.partition("/")[2].partition("_")[0]
        for occurrence, (line, column) in enumerate(_places(operator, tree)):
            if not any(_within(line, column, span) for span in annotations):
                yield (line, column, kind), partial(_mutated, source, operator, occurrence)


def _mutated(source: str, operator: Any, occurrence: int) -> str | None:
    """Return a source with one of cosmic-ray's changes, or None if its operator cannot make the change."""
    try:
        changed: str | None = mutate_code(source, operator, occurrence)
    except AttributeError:
        # cosmic-ray handles only plain exception names, and fails on `except concurrent.futures.Error`
        return None
    return changed


def _places(operator: Any, node: Any) -> Iterator[tuple[int, int]]:
    """Yield the line and column of each occurrence of an operator, in cosmic-ray's order."""
    for start, _ in operator.mutation_positions(node):
        yield start
    for child in getattr(node, "children", ()):
        yield from _places(operator, child)


def _own(source: str) -> Iterator[tuple[Place, Make]]:
    """Yield the changes that this module defines in addition to cosmic-ray's."""
    annotations = list(_annotations(source))
    for node in ast.walk(ast.parse(source)):
        for kind, place, text in _changes(node):
            if any(_within(place.lineno, place.col_offset, span) for span in annotations):
                continue
            yield (place.lineno, place.col_offset, kind), partial(_replaced, source, place, text)


def _changes(node: ast.AST) -> Iterator[tuple[str, Any, str]]:
    """Yield the possible changes of a node: the kind, the part of the node to replace, and the new text."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
            yield "SwapCall", node.func, SWAPPED[node.func.id]
        for argument in node.keywords:
            if argument.arg is not None:
                yield "DropArgument", argument, ""
    if isinstance(node, ast.If | ast.IfExp):
        for text in ("True", "False"):
            yield "FixCondition", node.test, text
    if isinstance(node, ast.comprehension):
        for condition in node.ifs:
            yield "FixCondition", condition, "True"
    if isinstance(node, ast.List) and len(node.elts) > 1 and isinstance(node.ctx, ast.Load):
        for element in node.elts:
            yield "DropElement", element, ""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "DropStatement", node, "pass"
    if isinstance(node, ast.AugAssign):
        yield "DropStatement", node, "pass"


def _replaced(source: str, node: Any, text: str) -> str:
    """Return a source with a node's text replaced. If the new text is empty, a comma after the node is removed too."""
    lines = source.encode("utf-8").splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    data = b"".join(lines)
    rest = data[end:]
    if not text and rest.lstrip().startswith(b","):
        rest = rest.lstrip()[1:]
    return (data[:start] + text.encode("utf-8") + rest).decode("utf-8")


def _annotations(source: str) -> Iterator[Span]:
    for node in ast.walk(ast.parse(source)):
        for field in ("annotation", "returns"):
            found = getattr(node, field, None)
            if found is not None:
                yield found.lineno, found.col_offset, found.end_lineno, found.end_col_offset
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript) and len(node.targets) == 1:
            # a type alias
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Name) and target.id.lstrip("_")[:1].isupper() and not target.id.isupper():
                yield value.lineno, value.col_offset, value.end_lineno or 0, value.end_col_offset or 0


def _separators(source: str) -> Iterator[Span]:
    """Yield the spans of parameter lists that may contain a bare ``*`` or ``/``, which are not operators."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwonlyargs:
            first = node.args.kwonlyargs[0]
            yield node.lineno, node.col_offset, first.lineno, first.col_offset


def _within(line: int, column: int, span: Span) -> bool:
    return (span[0], span[1]) <= (line, column) < (span[2], span[3])


def _compiles(source: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "mutant", "exec")
        except SyntaxError:
            return False
    return True
