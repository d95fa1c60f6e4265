"""Where a report stands in a pack: whether it is as expected, and the pages around its own.

A report does not know its scenario. Without a place its page says only whether the gates passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CasePlace:
    """The place of a report.

    Attributes:
        words: what was seen and whether that was expected, after the verdict of the gates.
        kind: ``pass`` as expected, ``fail`` not as expected, ``note`` if it does not affect the verdict.
        reasons: why it is not as expected.
        overview: the path of the pack's page relative to the report's folder, None without one.
        previous: that of the page before, None for the first.
        next: that of the page after, None for the last.
    """

    words: str
    kind: Literal["pass", "fail", "note"]
    reasons: tuple[str, ...] = ()
    overview: str | None = None
    previous: str | None = None
    next: str | None = None
