"""Folding lines of text that say the same about many things into one line.

Example::

    >>> fold([("a.json", "not sealed"), ("b.json", "not sealed"), ("c.json", "not sealed")], "files")
    ['3 files, the first is a.json: not sealed']
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from invarlock.problems import Problem

# Up to two lines are as short as a folded one.
MANY = 3
_NUMBERS = re.compile(r"[0-9a-f]{16,}|[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def fold(rows: Iterable[tuple[str, str]], things: str, *, exact: bool = False) -> list[str]:
    """Return a line for each row; rows that say the same about many things become one line.

    Args:
        rows: pairs of the thing that a line is about and its text; texts that differ only in numbers and digests count
            as the same.
        things: the kind of thing that the rows are about, in the plural.
        exact: whether texts with different numbers stay separate.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for about, text in rows:
        groups.setdefault(text if exact else _NUMBERS.sub("0", text), []).append((about, text))
    lines = []
    for group in groups.values():
        count = len({about for about, _ in group})
        if count < MANY:
            lines += [": ".join(part for part in row if part) for row in group]
        else:
            about, text = group[0]
            lines.append(f"{count} {things}, the first is {about}: {text}")
    return lines


def fold_problems(problems: Iterable[Problem]) -> list[str]:
    """Return a line with its code for each problem; the same message about many files becomes one line."""
    rows = []
    for problem in problems:
        text = ": ".join(part for part in (problem.field, problem.message) if part)
        rows.append((problem.where, f"{text} [{problem.code}]"))
    return fold(rows, "files")


def fold_warnings(warnings: Iterable[str]) -> list[str]:
    """Return the warnings; the same warning about many files becomes one line."""
    rows = []
    for warning in warnings:
        where, colon, text = warning.partition(": ")
        is_file = bool(colon) and " " not in where
        rows.append((where, text) if is_file else ("", warning))
    return fold(rows, "files")
