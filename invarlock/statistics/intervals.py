"""The paired ratio of perplexities and its confidence interval, the same on every platform.

Sums over windows are sums of integers, and exact, so the result does not depend on the order of summation, the vector
width or the library version. Random indices come from the raw stream of PCG64, which numpy keeps
stable, unlike the methods of its Generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# Sums of a mean stay below 2^61: room for the sign and one doubling in int64.
SUM_BITS = 61
# Sums of resamples stay below 2^52, and are therefore exact in float64.
RESAMPLED_BITS = 52
# Resampled indices in memory at once: 65,536 of 8 bytes, and as many pairs of 16 bytes, fit in the cache.
CHUNK_INDICES = 1 << 16
# Resamples are kept for the next interval, by the number of their indices: (largest number, how many are kept). An
# index takes two bytes up to 65,536 windows, so each row takes at most 32 MB.
KEPT_RESAMPLES = ((1 << 17, 128), (1 << 21, 8), (1 << 23, 2))
# Normal quantiles come from the C library, and agree in nine digits on all platforms.
LEVEL_DIGITS = 9
# The series for Student's t is accurate from this number of degrees of freedom.
FEWEST_DEGREES = 4.0

Method = Literal["bca", "percentile", "collapsed"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was made."""

    low: float
    high: float
    method: Method
    degenerate: bool


def weighted_mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Return sum(w * x) / sum(w) in float64.

    Raises:
        ValueError: when there are no values, lengths differ, a value is not finite, or a weight is not positive or has
            more than 63 bits.
    """
    products, counts, scale = _fixed_point(values, weights, SUM_BITS)
    return float(products.sum()) / scale / float(counts.sum())


def bca_interval(
    deltas: Sequence[float], weights: Sequence[int], *, replicates: int, alpha: float, seed: int
) -> Interval:
    """Return the BCa bootstrap interval of D = sum(t * delta) / sum(t) over windows.

    Pairs (delta_i, t_i) are resampled jointly. If all deltas are equal or there is one window, the interval collapses
    to D and is ``degenerate``. Zero jackknife variance gives the percentile interval. Levels are widened from normal to
    Student's t quantiles, because resamples of a small sample vary too little.
    Source: Efron 1987, "Better Bootstrap Confidence Intervals"; DiCiccio and Efron 1996, "Bootstrap Confidence
    Intervals", section 2 (equation 2.3 and the jackknife acceleration 6.6); Hesterberg 2015, "What Teachers Should
    Know About the Bootstrap", section 3.3, for the widening.

    Args:
        deltas: loss differences in nats, one per window.
        weights: numbers of predicted tokens, one per window.
        replicates: number of bootstrap samples.
        alpha: 1 - coverage, split evenly between the two ends.
        seed: the seed of the resampling stream.

    Raises:
        ValueError: as ``weighted_mean``, or when ``replicates`` or ``alpha`` is out of range.
    """
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, not {replicates}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
    products, counts, scale = _fixed_point(deltas, weights, RESAMPLED_BITS)
    estimate = float(products.sum()) / scale / float(counts.sum())
    if len(deltas) == 1 or all(delta == deltas[0] for delta in deltas):
        return Interval(estimate, estimate, "collapsed", True)
    samples = np.sort(_resampled_means(products, counts, scale, replicates, seed))
    tail = _widened(alpha / 2, products, counts, scale, estimate)
    nominal = (tail, 1 - tail)
    acceleration = _acceleration(products, counts, scale)
    if acceleration is None:
        low, high = (_quantile(samples, level) for level in nominal)
        return Interval(low, high, "percentile", False)
    normal = NormalDist()
    below = np.searchsorted(samples, estimate, side="left")
    not_above = np.searchsorted(samples, estimate, side="right")
    share = (float(below) + float(not_above)) / (2 * replicates)
    bias = normal.inv_cdf(min(max(share, 0.5 / replicates), 1 - 0.5 / replicates))
    levels = []
    for level in nominal:
        shifted = bias + normal.inv_cdf(level)
        levels.append(round(normal.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-12)), LEVEL_DIGITS))
    return Interval(_quantile(samples, levels[0]), _quantile(samples, levels[1]), "bca", False)


def quantile(values: Sequence[float], level: float) -> float:
    """Return the quantile by linear interpolation between order statistics (Hyndman and Fan 1996, type 7)."""
    return _quantile(np.sort(np.asarray(values, dtype=np.float64)), level)


def exponential(value: float) -> float | None:
    """Return exp(value), or None if it does not fit a float."""
    try:
        return math.exp(value)
    except OverflowError:
        return None


def _fixed_point(
    values: Sequence[float], weights: Sequence[int], bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], float]:
    """Return w * x as integers whose sum has at most ``bits`` bits, w, and the power of two that scaled them."""
    if not values or len(values) != len(weights):
        raise ValueError(f"as many weights as values are needed, at least one: {len(weights)} for {len(values)}")
    numbers = np.asarray(values, dtype=np.float64)
    try:
        counts = np.asarray(weights, dtype=np.int64)
    except OverflowError:
        raise ValueError("a weight has more than 63 bits") from None
    if not np.isfinite(numbers).all():
        raise ValueError("a value is not finite")
    if (counts < 1).any():
        raise ValueError("a weight is not positive")
    with np.errstate(over="ignore"):
        products = numbers * counts
    bound = float(np.abs(products).max()) * len(values)
    if not math.isfinite(bound):
        raise ValueError("the sum of the values does not fit a float")
    _, exponent = math.frexp(bound) if bound else (0.0, 0)
    # exponents are limited so that the scale itself stays a normal float
    scale = math.ldexp(1.0, min(bits - exponent, 1000))
    return np.rint(products * scale).astype(np.int64), counts, scale


def _resampled_means(
    products: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], scale: float, replicates: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return the ratio of the sums of products and counts over the windows of each replicate.

    Both sums are computed at once, as the real and the imaginary part of a complex number.
    """
    pairs = products + 1j * counts
    chunks = _resamples(len(products), replicates, seed)
    # no index is out of range; "clip" only spares the test
    sums = np.concatenate([pairs.take(indices, mode="clip").sum(axis=1) for indices in chunks])
    means: npt.NDArray[np.float64] = sums.real / scale / sums.imag
    return means


def _resamples(windows: int, replicates: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield, chunk by chunk, the windows that each replicate draws, shape (replicates, windows).

    All cases of a run have the same seed and number of windows, so the indices are kept. An array is valid until the
    next one is requested.
    """
    keep = next((keep for most, keep in _KEPT if windows * replicates <= most), None)
    if keep is None:
        yield from _drawn_resamples(windows, replicates, seed)
        return
    kept = keep(windows, replicates, seed)
    if kept:
        yield from (indices.astype(np.intp) for indices in kept)
        return
    dtype, drawn = np.min_scalar_type(windows - 1), []
    for indices in _drawn_resamples(windows, replicates, seed):
        drawn.append(indices.astype(dtype))
        yield indices
    kept[:] = drawn


def _nothing_drawn(windows: int, replicates: int, seed: int) -> list[npt.NDArray[Any]]:
    return []


_KEPT = tuple((most, lru_cache(maxsize=number)(_nothing_drawn)) for most, number in KEPT_RESAMPLES)


def _drawn_resamples(windows: int, replicates: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the resamples of a seed, as ``_resamples``.

    For each replicate, half as many numbers as windows are drawn. Their upper halves give the first half of its
    indices, their lower halves the rest: ``half * windows >> 32``, with a bias below windows / 2^32.
    """
    stream = np.random.PCG64(seed)
    rows, numbers = max(1, CHUNK_INDICES // windows), (windows + 1) // 2
    # memory is reused, because the kernel clears what it hands out
    space = np.empty((rows, 2 * numbers), dtype=np.uint64)
    for start in range(0, replicates, rows):
        some = min(rows, replicates - start)
        raw, halves = stream.random_raw(some * numbers).reshape(some, numbers), space[:some]
        np.right_shift(raw, np.uint64(32), out=halves[:, :numbers])
        np.bitwise_and(raw, np.uint64(0xFFFFFFFF), out=halves[:, numbers:])
        halves *= np.uint64(windows)
        halves >>= np.uint64(32)
        yield halves[:, :windows].view(np.intp)


def _widened(
    level: float, products: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], scale: float, estimate: float
) -> float:
    """Return the level at which the normal quantile equals Student's t quantile at ``level``, times sqrt(n / (n - 1)).

    The degrees of freedom are those of the variance estimate, from the kurtosis of the residuals t_i * (delta_i - D):
    n - 1 for normal residuals, fewer with heavy tails.
    Source: Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components".
    """
    windows = len(products)
    residuals = (products.astype(np.float64) / scale - estimate * counts).tolist()
    largest = max(map(abs, residuals))
    squares = [(residual / largest) ** 2 for residual in residuals] if largest > 0 else [1.0]
    spread = math.fsum(squares)
    # the mean fourth power over the squared mean square; at least 1
    kurtosis = len(squares) * math.fsum(square * square for square in squares) / (spread * spread)
    freedom = min(windows - 1, max(FEWEST_DEGREES, 2 * windows / max(kurtosis - 1, 1e-9)))
    normal = NormalDist()
    wide = student_quantile(normal.inv_cdf(level), max(FEWEST_DEGREES, freedom))
    return round(normal.cdf(wide * math.sqrt(windows / (windows - 1))), LEVEL_DIGITS)


def student_quantile(normal: float, freedom: float) -> float:
    """Return Student's t quantile from the normal quantile; accurate at 0.025 to 0.001 from 4 degrees of freedom on.

    Source: Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.5.
    """
    z, square = normal, normal * normal
    terms = (
        z * (square + 1) / 4,
        z * ((5 * square + 16) * square + 3) / 96,
        z * (((3 * square + 19) * square + 17) * square - 15) / 384,
        z * ((((79 * square + 776) * square + 1482) * square - 1920) * square - 945) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))


def _acceleration(products: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], scale: float) -> float | None:
    left_out = ((products.sum() - products).astype(np.float64) / scale / (counts.sum() - counts)).tolist()
    mean = math.fsum(left_out) / len(left_out)
    distances = [mean - value for value in left_out]
    spread = math.fsum(distance * distance for distance in distances)
    if spread <= 0:
        return None
    denominator = 6 * spread * math.sqrt(spread)
    if denominator == 0:
        return None
    return math.fsum(distance**3 for distance in distances) / denominator


def _quantile(ordered: npt.NDArray[np.float64], level: float) -> float:
    position = level * (len(ordered) - 1)
    lower = min(int(position), len(ordered) - 1)
    upper = min(lower + 1, len(ordered) - 1)
    low, high = float(ordered[lower]), float(ordered[upper])
    return low + (high - low) * (position - lower)
