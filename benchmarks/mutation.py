"""Mutants of a module: its source with one thing changed that a test should notice.

Most operators are those of cosmic-ray. Three kinds that it lacks are made here, because mutants of them had survived:
``any`` for ``all`` and the like, conditions that always or never hold, and an entry of a list, a keyword argument or
a call that is left out. Annotations are not changed: nothing evaluates them.
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

# The first two need the names of variables; without a decorator, a module of dataclasses cannot be imported.
LEFT_OUT = ("core/VariableInserter", "core/VariableReplacer", "core/RemoveDecorator")
SWAPPED = {"any": "all", "all": "any", "min": "max", "max": "min", "sorted": "list"}
Span = tuple[int, int, int, int]
# Line, column and kind of a change, and what makes the changed source; None where there is nothing to change.
Place = tuple[int, int, str]
Make = Callable[[], str | None]


@dataclass(frozen=True)
class Mutant:
    """A changed module: where it is changed, how, and its whole source."""

    line: int
    kind: str
    source: str


def sample_mutants(source: str, number: int | None, seed: int) -> list[Mutant]:
    """Return mutants of a module, drawn with a seed, in the order of their lines.

    A place has many mutants of one kind (``<`` as ``<=``, ``==``, ``!=`` ...), most of them easy to notice. One of them
    is drawn for each place and kind, so that a share of mutants killed is a share of places that tests look at.

    Args:
        source: of the module.
        number: of mutants; None for one of each place and kind.
        seed: of the draws.
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
    """Return a source with one of cosmic-ray's changes; None where its operator cannot make it."""
    try:
        changed: str | None = mutate_code(source, operator, occurrence)
    except AttributeError:
        # it expects the name of an exception, and fails on one of a module, such as except concurrent.futures.Error
        return None
    return changed


def _places(operator: Any, node: Any) -> Iterator[tuple[int, int]]:
    """Yield line and column of each occurrence of an operator, in cosmic-ray's own order."""
    for start, _ in operator.mutation_positions(node):
        yield start
    for child in getattr(node, "children", ()):
        yield from _places(operator, child)


def _own(source: str) -> Iterator[tuple[Place, Make]]:
    """Yield the changes that are made here."""
    annotations = list(_annotations(source))
    for node in ast.walk(ast.parse(source)):
        for kind, place, text in _changes(node):
            if any(_within(place.lineno, place.col_offset, span) for span in annotations):
                continue
            yield (place.lineno, place.col_offset, kind), partial(_replaced, source, place, text)


def _changes(node: ast.AST) -> Iterator[tuple[str, Any, str]]:
    """Yield what of a node is replaced by which text."""
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
    """Return a source with a node's text replaced; where it is left out, the comma behind it goes too."""
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
            # an alias of a type
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Name) and target.id.lstrip("_")[:1].isupper() and not target.id.isupper():
                yield value.lineno, value.col_offset, value.end_lineno or 0, value.end_col_offset or 0


def _separators(source: str) -> Iterator[Span]:
    """Yield where the ``*`` and ``/`` between the parameters of functions may be: they are no operators."""
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
