"""Derived numbers as documents store them."""

from __future__ import annotations

# exp and log may differ in the last bit between C libraries; twelve digits of a derived number do not.
_STORED = ".12g"


def rounded(value: float | None) -> float | None:
    """Return a derived number as it is stored: 12 significant digits."""
    return None if value is None else float(format(value, _STORED))
