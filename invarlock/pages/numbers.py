"""Changes, shares and sizes as people read them: in per cent, and with units.

Example::

    >>> change_text(1.0153), share_text(0.9893)
    ('+1.53 %', '98.93 %')
"""

from __future__ import annotations

import math

# A larger change is shown as a multiple.
MULTIPLE = 9.995
NOTHING = "–"


def change_text(ratio: float | None) -> str:
    """Return a ratio as a signed change in per cent, as a multiple above tenfold, or as a dash for None.

    The number has three significant digits and at most two decimals.
    """
    if ratio is None or not math.isfinite(ratio):
        return NOTHING
    percent = 100.0 * (ratio - 1.0)
    if ratio >= 1.0 + MULTIPLE:
        return f"× {ratio:.3g}"
    if abs(percent) < 0.1:
        return f"{percent:+.2f} %" if abs(percent) >= 0.005 else "0 %"
    return f"{percent:+.3g} %"


def share_text(share: float | None) -> str:
    """Return a share in per cent with at most two decimals, as a multiple above hundredfold, or as a dash for None."""
    if share is None or not math.isfinite(share):
        return NOTHING
    percent = 100.0 * share
    if percent >= 9999.5:
        return f"× {share:.3g}"
    if 0 < percent < 0.01:
        return "< 0.01 %"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + " %" if percent < 100 else f"{percent:.4g} %"


def bytes_text(size: int) -> str:
    """Return a size in bytes with a unit: kB, MB or GB, powers of 1000."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size // scale} {unit}"
    return f"{size} bytes"
