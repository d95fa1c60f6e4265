"""Shares of a limit: 0 if none of it is used, 1 at the limit, None if the value was not measured."""

from __future__ import annotations

import math
from collections.abc import Iterable

from invarlock.statistics.rounding import rounded

Shares = dict[str, float | None]


def share_of(value: float | None, allowed: float) -> float | None:
    """Return value / allowed, 0 for a negative value; None if the value is not finite or nothing is allowed."""
    if value is None or not math.isfinite(value):
        return None
    if value <= 0:
        return 0.0
    return rounded(value / allowed) if allowed > 0 else None


def largest_share(shares: Iterable[float | None]) -> float | None:
    """Return the largest share, or 0 without shares; None if one was not measured."""
    known: list[float] = []
    for share in shares:
        if share is None:
            return None
        known.append(share)
    return max(known, default=0.0)


def magnitude(value: float | None) -> float | None:
    """Return the absolute value, or None for None."""
    return None if value is None else abs(value)
