"""A histogram in logarithmic bins, from which quantiles are read as upper edges of bins.

Bin 0 has what is below the first edge, bin k what lies from edge k - 1 up to edge k, the last what is above the last
edge. A quantile is so never understated, and overstated by at most a fortieth of a decade, 6 %.
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
    """Return how many finite values, 0 at least, each of the ``BINS`` bins has."""
    bins = np.searchsorted(np.asarray(EDGES), values.ravel(), side="right")
    return [int(count) for count in np.bincount(bins, minlength=BINS)]


def lower_edge(number: int) -> float:
    """Return the least value that a bin has, 0 for the first."""
    return EDGES[number - 1] if number else 0.0


def upper_edge(number: int) -> float:
    """Return the value that ends a bin, infinity for the last."""
    return EDGES[number] if number < len(EDGES) else math.inf


def quantile_edge(first: int, counts: Sequence[int], level: float, largest: float) -> float:
    """Return the upper edge of the bin that has a quantile, or the largest value where that is less.

    The quantile is the least value that a share ``level`` of all values does not exceed.

    Args:
        first: the bin of the first count.
        counts: of that bin and those after it; one at least is not 0.
        level: above 0, up to 1.
        largest: the largest value.
    """
    total = sum(counts)
    # the product of a share and a count need not be whole where it should be
    rank = max(1, math.ceil(round(level * total, 6)))
    place = next(index for index, below in enumerate(accumulate(counts)) if below >= rank)
    return min(upper_edge(first + place), largest)
