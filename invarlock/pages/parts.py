"""The parts of pages: tables, definition lists, and formatted numbers and words."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from invarlock.pages.markup import Markup, element, join, text

# The default maximum number of rows and list values.
MAX_ROWS = 40
# The number of most-changed modules shown for a guard; all of them are in the report.
TOP_MODULES = 5


def data_table(heads: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "", **attributes: object) -> Markup:
    """Return a table with right-aligned number columns, or the text ``empty`` without rows.

    On narrow screens each row is a list of names and values. A head that begins with ``?`` names a column to filter by.
    ``attributes`` are those of the table.
    """
    if not rows:
        return element("p", empty, class_="soft")
    names = [name.removeprefix("?") for name in heads]
    numbers = [isinstance(cell, NumberCell) for cell in rows[0]]
    head = join(
        element("th", shown, scope="col", **_number(is_number), **({"data_choice": ""} if name.startswith("?") else {}))
        for name, shown, is_number in zip(heads, names, numbers, strict=True)
    )
    body = join(element("tr", join(_cell(name, cell) for name, cell in zip(names, row, strict=True))) for row in rows)
    return element("table", element("thead", element("tr", head)), element("tbody", body), class_="cards", **attributes)


def _cell(name: str, cell: object) -> Markup:
    label = {"data_l": name} if name else {}
    # in the layout for narrow screens, the value must be one box
    several = isinstance(cell, Markup) and not isinstance(cell, NumberCell)
    inner = element("div", cell) if several and name else cell
    return element("td", inner, **_number(isinstance(cell, NumberCell)), **label)


def _number(is_number: bool) -> dict[str, str]:
    return {"class_": "number"} if is_number else {}


def definition_list(rows: Mapping[str, object]) -> Markup:
    """Return a list of names and values; values of None are omitted."""
    return element(
        "dl",
        join(join((element("dt", key), element("dd", value))) for key, value in rows.items() if value is not None),
    )


class NumberCell(Markup):
    """The content of a table cell with a number."""

    __slots__ = ()


def number_cell(value: float | None) -> NumberCell:
    """Return the content of a table cell with a number, or a dash for None."""
    return number_words(number_text(value))


def number_words(words: str) -> NumberCell:
    """Return a formatted number as the content of a table cell with a number."""
    return NumberCell(text(words))


def pill(words: str, kind: str) -> Markup:
    """Return highlighted words, coloured by kind: pass, warn or fail."""
    return element("span", words, class_=kind)


def code(value: str | None) -> Markup | None:
    """Return a value such as a digest as code, or None for None."""
    return None if value is None else element("code", value)


def number_text(value: float | None) -> str:
    """Return a number with four significant digits, or a dash for None."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain_text(value: object) -> str:
    """Return a value other than a mapping as text: short numbers, comma-separated lists."""
    if isinstance(value, list | tuple):
        return listed(map(plain_text, value))
    return number_text(value) if isinstance(value, float) else "–" if value is None else str(value)


def listed(values: Iterable[str]) -> str:
    """Return comma-separated values, truncated if there are too many."""
    shown = list(islice(values, MAX_ROWS + 1))
    return ", ".join(shown[:MAX_ROWS]) + (", …" if len(shown) > MAX_ROWS else "")


def compact(value: object) -> Markup:
    """Return a document on one line."""
    return element("code", json.dumps(value, sort_keys=True, ensure_ascii=False))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def most_changed(changes: Mapping[str, float | None]) -> list[str]:
    """Return the modules that changed most; a module without a number counts as the largest change."""

    def order(name: str) -> tuple[float, str]:
        value = changes[name]
        return (float("-inf") if value is None else -abs(value), name)

    return heapq.nsmallest(TOP_MODULES, [name for name, value in changes.items() if value != 0], key=order)
