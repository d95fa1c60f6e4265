"""Markdown that is safe by construction: a value cannot create a heading, link or HTML, or end a code block.

Example::

    >>> inline("0.1.0"), inline("# <b>`x`")
    ('0.1.0', "`# <b>'x'`")
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from invarlock.errors import printable

# Letters, digits and marks without a meaning in Markdown within a line; two underscores would be emphasis.
_PLAIN = re.compile(r"[A-Za-z0-9]+([ .+:_-][A-Za-z0-9]+)*")
_BACKTICKS = re.compile(r"`+")


def inline(value: object) -> str:
    """Return a value for use within a line: unchanged if it is plain, else as a code span."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else code_span(text)


def code_span(value: object) -> str:
    """Return a value as a code span; backticks in it become apostrophes."""
    return f"`{printable(str(value)).replace('`', chr(39)) or ' '}`"


def code_block(lines: Sequence[str]) -> str:
    """Return lines as a code block whose fence is longer than any run of backticks in them."""
    shown = [printable(line) for line in lines]
    longest = max((len(row) for line in shown for row in _BACKTICKS.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *shown, fence, ""])
