"""Tables and sentences as lines of text that fit the width of the terminal.

Example::

    text_table([("scenario", "ratio"), ("noop_control", "1")], columns=None)
    # ["scenario      ratio", "noop_control  1"]

If a table is too wide, optional columns are left out first; then cells that are too wide continue on the next line. No
word is broken.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = "  "
INDENT = "  "
# Lines are not folded to fewer columns than this; a narrower terminal folds them itself.
LEAST_COLUMNS = 40
LEFT_OUT = "left out for the width of the terminal"

Row = Sequence[str]


def text_table(rows: Sequence[Row], columns: int | None = None, optional: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table; the first row has the heads.

    Args:
        rows: the rows, all of the same length.
        columns: the width of the terminal, None for no limit.
        optional: the heads of columns that may be left out, least important first.
    """
    widths = _natural(rows)
    if columns is None or _width(widths) <= columns:
        return [_line(row, widths) for row in rows]
    left_out = []
    for head in optional:
        if _width(_least(rows)) <= columns:
            break
        left_out.append(head)
        rows = [[cell for cell, name in zip(row, rows[0], strict=True) if name != head] for row in rows]
    widths, least = _natural(rows), _least(rows)
    while _width(widths) > max(columns, _width(least)):
        # the column that is widest beyond its longest word
        column = max(range(len(widths)), key=lambda number: widths[number] - least[number])
        widths[column] -= 1
    lines = [line for row in rows for line in _folded(row, widths)]
    return lines + ([*fit_line(f"({LEFT_OUT}: {', '.join(left_out)})", columns)] if left_out else [])


def fit_line(line: str, columns: int | None) -> list[str]:
    """Fold a sentence into lines that fit the width of the terminal; a longer word is not broken.

    Args:
        line: the sentence.
        columns: the width of the terminal, None for no limit.
    """
    if columns is None or len(line) <= columns:
        return [line]
    return _wrapped(line, max(columns, LEAST_COLUMNS), INDENT)


def _natural(rows: Sequence[Row]) -> list[int]:
    return [max(map(len, cells)) for cells in zip(*rows, strict=True)]


def _least(rows: Sequence[Row]) -> list[int]:
    """Return the minimum width of each column: that of its longest word, and at least half of its longest cell."""
    words = [
        max((len(word) for cell in cells for word in cell.split()), default=0) for cells in zip(*rows, strict=True)
    ]
    return [max(word, (width + 1) // 2) for word, width in zip(words, _natural(rows), strict=True)]


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _line(row: Row, widths: Sequence[int]) -> str:
    return GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _folded(row: Row, widths: Sequence[int]) -> list[str]:
    cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, cells))
    return [_line([cell[number] if number < len(cell) else "" for cell in cells], widths) for number in range(height)]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines or [""]
