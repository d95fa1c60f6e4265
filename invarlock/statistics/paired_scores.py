"""Scores of two sides on the same samples: the mean difference with its interval, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from invarlock.statistics.intervals import bca_interval


@dataclass(frozen=True)
class MeanDifference:
    """The mean of the subject's scores minus the baseline's, with an interval and its method."""

    value: float
    low: float
    high: float
    method: Literal["bca", "percentile", "exact"]


def mean_difference(
    baseline: Sequence[float], subject: Sequence[float], *, replicates: int, alpha: float, seed: int
) -> MeanDifference:
    """Return the mean difference of paired scores from 0 to 1, with its interval.

    The interval is the paired BCa bootstrap over samples. If all differences are equal, a bootstrap has no spread,
    however few samples there are. The interval is then exact: if n samples agree, the probability of one that does not
    is at most 1 - (alpha/2)^(1/n) (Clopper and Pearson 1934), and its difference is at most 1 away from 0, or 2 from
    another value.

    Args:
        baseline: the baseline's scores, one per sample.
        subject: the subject's scores on the same samples.
        replicates: number of bootstrap samples.
        alpha: 1 - coverage, split evenly between the two ends.
        seed: the seed of the resampling stream.

    Raises:
        ValueError: when there are no scores, or the two sides have different numbers of scores.
    """
    differences = [own - base for own, base in zip(subject, baseline, strict=True)]
    found = bca_interval(differences, [1] * len(differences), replicates=replicates, alpha=alpha, seed=seed)
    value = sum(differences) / len(differences)
    if not found.degenerate:
        assert found.method != "collapsed"
        return MeanDifference(value, max(found.low, -1.0), min(found.high, 1.0), found.method)
    unseen = 1 - (alpha / 2) ** (1 / len(differences))
    reach = unseen * (1 if value == 0 else 2)
    return MeanDifference(value, max(value - reach, -1.0), min(value + reach, 1.0), "exact")


def mcnemar_exact(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test of the hypothesis that losses and gains are equally likely.

    Under the hypothesis, each of the n = lost + gained flips goes either way with probability 1/2. The p-value is
    2·P(X ≤ min(lost, gained)) for X from Binomial(n, 1/2), at most 1. The sum is over integers and exact.
    Source: McNemar 1947; the exact form in Agresti, "Categorical Data Analysis", section 10.1.

    Args:
        lost: number of samples that only the baseline has right.
        gained: number of samples that only the subject has right.
    """
    flips, fewer = lost + gained, min(lost, gained)
    term = tail = 1
    for taken in range(fewer):
        term = term * (flips - taken) // (taken + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << flips)) if flips else 1.0
