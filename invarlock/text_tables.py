"""Tables and sentences as lines of text, on a terminal no wider than it is.

Example::

    text_table([("scenario", "ratio"), ("noop_control", "1")], columns=None)
    # ["scenario      ratio", "noop_control  1"]

Columns that can be left out go first, then a cell that is too wide continues on the next line. No word is broken.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = "  "
INDENT = "  "
# A narrower terminal folds lines itself.
LEAST_COLUMNS = 40
LEFT_OUT = "left out for the width of the terminal"

Row = Sequence[str]


def text_table(rows: Sequence[Row], columns: int | None = None, optional: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table, whose first row has the heads.

    Args:
        rows: all of the same length.
        columns: the width of the terminal, None for no limit.
        optional: heads of columns that may be left out, the least important first.
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
    """Return a sentence as lines of at most so many columns, and a line that does not end as it is.

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
    """Return the least width of each column: its longest word, and at least half of its longest cell."""
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
