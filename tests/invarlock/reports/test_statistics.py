"""The weighted mean and the BCa interval."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from invarlock.statistics.intervals import bca_interval, quantile, student_quantile, weighted_mean


def windows(count: int, seed: int) -> tuple[list[float], list[int]]:
    draw = np.random.default_rng(seed)
    return draw.gamma(2.0, 0.02, count).tolist(), draw.integers(20, 511, count).tolist()


@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 4095)), min_size=1, max_size=40))
def test_weighted_mean_is_the_textbook_formula_in_any_order(pairs: list[tuple[float, int]]) -> None:
    values, weights = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    expected = math.fsum(value * weight for value, weight in pairs) / sum(weights)

    mean = weighted_mean(values, weights)

    assert mean == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert mean == weighted_mean(values[::-1], weights[::-1])


def test_sums_have_sixty_one_bits() -> None:
    # all three together are below 4, so that one unit of a sum is 2^-59
    assert weighted_mean([1.0, -1.0, 2.0**-59], [1, 1, 1]) == 2.0**-59 / 3
    assert weighted_mean([1.0, -1.0, 2.0**-60], [1, 1, 1]) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_interval_agrees_with_scipy(seed: int) -> None:
    deltas, weights = windows(64, seed)

    def statistic(delta: np.ndarray, weight: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray((delta * weight).sum(axis) / weight.sum(axis))

    reference = scipy.stats.bootstrap(
        (np.array(deltas), np.array(weights)),
        statistic,
        paired=True,
        method="BCa",
        n_resamples=20_000,
        confidence_level=1 - 2 * widened(0.025, deltas, weights),
        rng=np.random.default_rng(1),
    ).confidence_interval

    interval = bca_interval(deltas, weights, replicates=20_000, alpha=0.05, seed=seed)

    width = reference.high - reference.low
    assert interval.method == "bca"
    assert abs(interval.low - reference.low) < 0.03 * width
    assert abs(interval.high - reference.high) < 0.03 * width


def widened(level: float, deltas: list[float], weights: list[int]) -> float:
    """Return the level at which a normal quantile is as far out as Student's t, for a small sample."""
    delta, weight = np.array(deltas), np.array(weights)
    residuals = weight * (delta - (delta * weight).sum() / weight.sum())
    kurtosis = (residuals**4).mean() / (residuals**2).mean() ** 2
    freedom = max(4.0, min(len(delta) - 1, 2 * len(delta) / (kurtosis - 1)))
    quantile = scipy.stats.t.ppf(level, freedom) * math.sqrt(len(delta) / (len(delta) - 1))
    return float(scipy.stats.norm.cdf(quantile))


@pytest.mark.parametrize("freedom", [4.0, 6.5, 31.0, 400.0])
@pytest.mark.parametrize("level", [0.025, 0.05, 0.2])
def test_the_quantile_of_students_t_agrees_with_scipy(freedom: float, level: float) -> None:
    found = student_quantile(scipy.stats.norm.ppf(level), freedom)

    assert found == pytest.approx(scipy.stats.t.ppf(level, freedom), abs=1e-3)


@pytest.mark.parametrize("count", [8, 32])
def test_an_interval_of_few_windows_is_wider_than_the_bootstrap_says(count: int) -> None:
    deltas, weights = windows(count, 1)
    counts = np.random.default_rng(2).integers(0, count, (4000, count))
    delta, weight = np.array(deltas), np.array(weights)
    means = (delta * weight)[counts].sum(axis=1) / weight[counts].sum(axis=1)

    interval = bca_interval(deltas, weights, replicates=4000, alpha=0.05, seed=1)

    low, high = np.quantile(means, [0.025, 0.975])
    assert interval.high - interval.low > high - low
    assert min(deltas) <= interval.low < interval.high <= max(deltas)


def test_interval_is_the_same_to_the_bit_everywhere() -> None:
    deltas = [((37 * i) % 101 - 50) / 1024 for i in range(64)]
    weights = [100 + i % 28 for i in range(64)]

    interval = bca_interval(deltas, weights, replicates=1200, alpha=0.05, seed=7)

    assert (interval.low.hex(), interval.high.hex()) == GOLDEN


GOLDEN = ("-0x1.dd664718833f5p-8", "0x1.f6810e1a79a57p-8")


def test_an_interval_of_windows_with_heavy_tails_is_the_same_to_the_bit_everywhere() -> None:
    deltas = [((37 * i) % 101 - 50) / 1024 * (8 if i in (5, 40) else 1) for i in range(64)]
    weights = [100 + i % 28 for i in range(64)]

    interval = bca_interval(deltas, weights, replicates=1200, alpha=0.05, seed=7)

    assert (interval.low.hex(), interval.high.hex()) == HEAVY_GOLDEN


HEAVY_GOLDEN = ("-0x1.63981719b5414p-8", "0x1.7339ef2a70c8dp-6")


@pytest.mark.parametrize("count", [63, 64])
def test_an_interval_is_that_of_resamples_drawn_in_plain_python(count: int) -> None:
    # symmetrical: no bias, no acceleration, so the levels are those of Student's t
    deltas = [(2 * i - count + 1) / 1024 for i in range(count)]
    stream, means = np.random.PCG64(5), []
    for _ in range(300):
        raw = [int(number) for number in stream.random_raw((count + 1) // 2)]
        halves = [number >> 32 for number in raw] + [number & 0xFFFFFFFF for number in raw]
        drawn = [half * count >> 32 for half in halves[:count]]
        means.append(float(Fraction(sum(Fraction(deltas[index]) for index in drawn)) / count))

    interval = bca_interval(deltas, [127] * count, replicates=300, alpha=0.05, seed=5)

    assert min(means) <= interval.low < interval.high <= max(means)
    middle = (sum(mean < 0 for mean in means) + sum(mean <= 0 for mean in means)) / 600
    bias = NormalDist().inv_cdf(middle)
    levels = [NormalDist().cdf(2 * bias + NormalDist().inv_cdf(level)) for level in tails(deltas, count)]
    assert [interval.low, interval.high] == pytest.approx([quantile(means, level) for level in levels], rel=1e-7)


def tails(deltas: list[float], count: int) -> tuple[float, float]:
    tail = widened(0.025, deltas, [127] * count)
    return tail, 1 - tail


def test_a_long_interval_does_not_depend_on_earlier_calls() -> None:
    deltas = [((37 * i) % 101 - 50) / 1024 for i in range(400)]
    weights = [100 + i % 28 for i in range(400)]

    seeds = [7, 7, 8, 7]
    found = [bca_interval(deltas, weights, replicates=3200, alpha=0.05, seed=seed) for seed in seeds]

    assert found[0] == found[1] == found[3] != found[2]
    assert (found[0].low.hex(), found[0].high.hex()) == LONG_GOLDEN


def test_more_windows_than_are_kept_give_the_interval_of_their_sums() -> None:
    # 70,000 windows are no size that resamples are kept for; the normal interval is as good as theirs
    deltas = [((37 * i) % 101 - 50) / 1024 for i in range(70_000)]
    deviation = float(np.std(deltas)) / math.sqrt(len(deltas))

    interval = bca_interval(deltas, [127] * len(deltas), replicates=100, alpha=0.05, seed=1)

    assert interval.method == "bca"
    middle = weighted_mean(deltas, [1] * len(deltas))
    assert 2.5 * deviation < interval.high - interval.low < 5.5 * deviation
    assert interval.low < middle < interval.high


LONG_GOLDEN = ("-0x1.795845be891adp-9", "0x1.688dc4926f5b2p-9")


def test_equal_differences_and_single_windows_collapse() -> None:
    assert bca_interval([0.5] * 3, [1, 2, 3], replicates=100, alpha=0.05, seed=0) == bca_interval(
        [0.5], [9], replicates=100, alpha=0.05, seed=0
    )
    interval = bca_interval([0.5] * 3, [1, 2, 3], replicates=100, alpha=0.05, seed=0)
    assert (interval.low, interval.high, interval.degenerate, interval.method) == (0.5, 0.5, True, "collapsed")


@pytest.mark.parametrize("replicates", [0, -1])
def test_an_interval_without_replicates_is_refused(replicates: int) -> None:
    with pytest.raises(ValueError, match="replicates must be at least 1"):
        bca_interval([0.1, 0.2], [1, 1], replicates=replicates, alpha=0.05, seed=0)


def test_a_tiny_difference_does_not_collapse() -> None:
    interval = bca_interval([1e-12, 2e-12, 1e-12, 5e-12], [9] * 4, replicates=500, alpha=0.05, seed=0)

    assert not interval.degenerate
    assert 0 < interval.low < interval.high < 5e-12


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ([], []),
        ([1.0], [1, 2]),
        ([math.nan], [1]),
        ([math.inf], [1]),
        ([1.0], [0]),
        ([1.0], [1 << 63]),
        ([1e308, 1e308], [1, 1]),
    ],
)
def test_values_without_a_mean_are_refused(values: list[float], weights: list[int]) -> None:
    with pytest.raises(ValueError, match=r"needed|finite|positive|63 bits|does not fit"):
        weighted_mean(values, weights)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_quantile_agrees_with_numpy(values: list[float], level: float) -> None:
    assert quantile(values, level) == pytest.approx(float(np.quantile(values, level)), rel=1e-9, abs=1e-9)
