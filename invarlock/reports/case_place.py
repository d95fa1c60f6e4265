"""The place of a report in a pack: whether the report is as expected, and the neighbouring pages.

A report does not contain its scenario. Without a place, its page says only whether the gates passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CasePlace:
    """The place of a report.

    Attributes:
        words: the outcome and whether it was expected, shown after the verdict of the gates.
        kind: ``pass`` if as expected, ``fail`` if not as expected, ``note`` if the report does not affect the verdict.
        reasons: why the report is not as expected.
        overview: the path of the pack's page relative to the report's folder, None if the pack has no page.
        previous: the relative path of the page before, None for the first.
        next: the relative path of the page after, None for the last.
    """

    words: str
    kind: Literal["pass", "fail", "note"]
    reasons: tuple[str, ...] = ()
    overview: str | None = None
    previous: str | None = None
    next: str | None = None
