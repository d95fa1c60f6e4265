"""What a report's page is put together of: tables, lists of names and values, numbers and words for people."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from invarlock.pages.markup import Markup, element, join

# Rows and values of a list, unless its reader needs fewer.
MAX_ROWS = 40
# The modules of a guard that say most; all of them are in the report.
TOP_MODULES = 5


def data_table(heads: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "") -> Markup:
    """Return a table, whose columns of numbers stand right; a text instead where it has no rows."""
    if not rows:
        return element("p", empty, class_="soft")
    cells = (join(cell if isinstance(cell, NumberCell) else element("td", cell) for cell in row) for row in rows)
    numbers = [isinstance(cell, NumberCell) for cell in rows[0]]
    head = join(
        element("th", name, class_="number") if number else element("th", name)
        for name, number in zip(heads, numbers, strict=True)
    )
    body = join(element("tr", row) for row in cells)
    return element("table", element("thead", element("tr", head)), element("tbody", body))


def definition_list(rows: Mapping[str, object]) -> Markup:
    """Return a list of names and values; a value of None is left out."""
    return element(
        "dl",
        join(join((element("dt", key), element("dd", value))) for key, value in rows.items() if value is not None),
    )


class NumberCell(Markup):
    """A table's cell that holds a number."""

    __slots__ = ()


def number_cell(value: float | None) -> NumberCell:
    """Return a table cell with a number, or a dash where there is none."""
    return NumberCell(element("td", number_text(value), class_="number"))


def pill(words: str, kind: str) -> Markup:
    """Return words that stand out, coloured by their kind: pass, warn or fail."""
    return element("span", words, class_=kind)


def code(value: str | None) -> Markup | None:
    """Return a digest or the like; None of none."""
    return None if value is None else element("code", value)


def number_text(value: float | None) -> str:
    """Return a number with six significant digits."""
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plain_text(value: object) -> str:
    """Return a value that is no mapping for people: numbers short, lists with commas."""
    if isinstance(value, list | tuple):
        return listed(map(plain_text, value))
    return number_text(value) if isinstance(value, float) else "–" if value is None else str(value)


def listed(values: Iterable[str]) -> str:
    """Return values with commas, the first of many."""
    shown = list(islice(values, MAX_ROWS + 1))
    return ", ".join(shown[:MAX_ROWS]) + (", …" if len(shown) > MAX_ROWS else "")


def compact(value: object) -> Markup:
    """Return a document on one line."""
    return element("code", json.dumps(value, sort_keys=True, ensure_ascii=False))


def counted(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def most_changed(changes: Mapping[str, float | None]) -> list[str]:
    """Return the modules that changed most; one that has no number changed beyond any."""

    def order(name: str) -> tuple[float, str]:
        value = changes[name]
        return (float("-inf") if value is None else -abs(value), name)

    return heapq.nsmallest(TOP_MODULES, [name for name, value in changes.items() if value != 0], key=order)
