"""Rounds derived numbers to the digits that documents store."""

from __future__ import annotations

# exp and log may differ in the last bit between C libraries; rounded to twelve digits, derived numbers agree.
_STORED = ".12g"


def rounded(value: float | None) -> float | None:
    """Return a derived number with the 12 significant digits that are stored."""
    return None if value is None else float(format(value, _STORED))
