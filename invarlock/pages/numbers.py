"""Changes, shares and sizes as people read them: in per cent, and with units.

Example::

    change_text(1.0153)     # "+1.53 %"
    share_text(0.9893)      # "98.93 %"
"""

from __future__ import annotations

import math

# A larger change is shown as a multiple.
MAX_PERCENT = 1000.0
NOTHING = "–"


def change_text(ratio: float | None) -> str:
    """Return a ratio as a signed change in per cent, above tenfold as a multiple, or a dash for None."""
    if ratio is None or not math.isfinite(ratio):
        return NOTHING
    percent = 100.0 * (ratio - 1.0)
    if percent > MAX_PERCENT:
        return f"× {ratio:.3g}"
    shown = f"{percent:+.{_decimals(percent)}f}"
    return f"{shown if float(shown) else '0.00'} %"


def share_text(share: float | None) -> str:
    """Return a share in per cent, or a dash for None."""
    if share is None or not math.isfinite(share):
        return NOTHING
    percent = 100.0 * share
    if percent > 10 * MAX_PERCENT:
        return f"× {share:.3g}"
    return f"{percent:.{_decimals(percent)}f} %"


def bytes_text(size: int) -> str:
    """Return a size in bytes with a unit: kB, MB or GB, powers of 1000."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size // scale} {unit}"
    return f"{size} bytes"


def _decimals(percent: float) -> int:
    """Return the decimals of a percentage: two below 100, one above."""
    return 2 if abs(percent) < 99.995 else 1
