"""Two sides' scores of the same samples: the mean difference with its interval, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from invarlock.statistics.intervals import bca_interval


@dataclass(frozen=True)
class MeanDifference:
    """The mean of the subject's scores minus the baseline's, with an interval and how that was made."""

    value: float
    low: float
    high: float
    method: Literal["bca", "percentile", "exact"]


def mean_difference(
    baseline: Sequence[float], subject: Sequence[float], *, replicates: int, alpha: float, seed: int
) -> MeanDifference:
    """Return the mean difference of paired scores from 0 to 1, with its interval.

    The interval is the paired BCa bootstrap over samples. Where all differences are equal a bootstrap has no spread,
    however few samples there are; there it is exact: with n samples that agree, the probability of one that does not is
    at most 1 - (alpha/2)^(1/n) (Clopper and Pearson 1934), and a difference is at most 1 away from 0, 2 from another.

    Args:
        baseline: its scores, one a sample.
        subject: its scores of the same samples.
        replicates: bootstrap samples.
        alpha: 1 - coverage, split evenly between the two ends.
        seed: of the resampling stream.

    Raises:
        ValueError: when there are no scores, or one side has more.
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
    """Return the two-sided p-value of McNemar's exact test: were as many answers lost as gained?

    Under the hypothesis each of the n = lost + gained flips goes either way with probability 1/2; the p-value is
    2·P(X ≤ min(lost, gained)) for X from Binomial(n, 1/2), 1 at most. The sum is of whole numbers and exact.
    Source: McNemar 1947; the exact form in Agresti, "Categorical Data Analysis", section 10.1.

    Args:
        lost: samples that the baseline has right and the subject has wrong.
        gained: samples that the subject alone has right.
    """
    flips, fewer = lost + gained, min(lost, gained)
    term = tail = 1
    for taken in range(fewer):
        term = term * (flips - taken) // (taken + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << flips)) if flips else 1.0
