"""A histogram with logarithmic bins, from which quantiles are read as upper edges of bins.

Bin 0 has the values below the first edge, bin k the values from edge k - 1 up to edge k, and the last bin the values
above the last edge. A quantile is therefore never understated, and overstated by at most a fortieth of a decade, 6 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

PER_DECADE = 40
LOWEST, HIGHEST = -8, 2
EDGES: tuple[float, ...] = tuple(
    10.0 ** (LOWEST + step / PER_DECADE) for step in range(PER_DECADE * (HIGHEST - LOWEST) + 1)
)
BINS = len(EDGES) + 1


def count_in_bins(values: npt.NDArray[np.float64]) -> list[int]:
    """Return the count of each of the ``BINS`` bins, for finite values of at least 0."""
    bins = np.searchsorted(np.asarray(EDGES), values.ravel(), side="right")
    return [int(count) for count in np.bincount(bins, minlength=BINS)]


def lower_edge(number: int) -> float:
    """Return the smallest value of a bin; 0 for the first bin."""
    return EDGES[number - 1] if number else 0.0


def upper_edge(number: int) -> float:
    """Return the upper end of a bin; infinity for the last bin."""
    return EDGES[number] if number < len(EDGES) else math.inf


def quantile_edge(first: int, counts: Sequence[int], level: float, largest: float) -> float:
    """Return the upper edge of the bin that contains a quantile, or the largest value if that is smaller.

    The quantile is the smallest value that is at least as large as a share ``level`` of all values.

    Args:
        first: the number of the bin of the first count.
        counts: the counts of that bin and the following ones; at least one is not 0.
        level: above 0, up to 1.
        largest: the largest value.
    """
    total = sum(counts)
    # rounded, because the floating-point product may miss a whole number
    rank = max(1, math.ceil(round(level * total, 6)))
    place = next(index for index, below in enumerate(accumulate(counts)) if below >= rank)
    return min(upper_edge(first + place), largest)
