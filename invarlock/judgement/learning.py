"""Limits fitted to measured values: a preset's from null runs, a tier's from reports and null runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.statistics.rounding import rounded

# Scales the median absolute deviation of a normal distribution to its standard deviation.
MAD_TO_DEVIATION = 1.4826
# A limit is at least this quantile of null changes, times this margin.
QUANTILE = 0.975
MARGIN = 1.1

Block = Mapping[str, Any]


@dataclass(frozen=True)
class NullChange:
    """One harmless change of a null run, paired with its baseline.

    Attributes:
        document: the null run.
        change: its row under ``changes``.
        windows: in the form of ``evaluation_windows`` of a report, with the losses of both sides.
    """

    document: Block
    change: Block
    windows: Mapping[str, Block]

    def pair(self, key: str) -> dict[str, Any]:
        """Return a measurement of both sides in the form of a guard's raw part."""
        return {"baseline": self.document[key], "subject": self.change[key]}

    @property
    def deltas(self) -> list[float]:
        """Return the loss differences on the final windows, in nats per token."""
        final = self.windows["final"]
        return [
            rounded(own - base) or 0.0 for own, base in zip(final["logloss"], final["baseline_logloss"], strict=True)
        ]


def _no_lines(value: Any, tier: Block) -> Iterator[str]:
    yield from ()


@dataclass(frozen=True)
class LearnedLimit:
    """A limit that a preset learns from null runs.

    Attributes:
        block: its key under ``derivation`` of a preset.
        limit: its dotted name in the policy, such as ``rmt.epsilon_by_family``.
        statistics: returns the statistics kept of one null change, given the tier's policy; independent of limits.
        derive: returns the block, given the statistics of all changes, the tier's policy, and the number of final
            windows. It raises an EvaluationError if no limit can be derived.
        value: returns the limit, given the block.
        refusals: yields why a value is not allowed in a preset, given the tier's limits of this guard.
        loosened: yields the values that allow more than the tier, given the tier's limits of this guard.
    """

    block: str
    limit: str
    statistics: Callable[[NullChange, Block], Any]
    derive: Callable[[Sequence[Any], Block, int], Block]
    value: Callable[[Block], Any]
    refusals: Callable[[Any, Block], Iterator[str]] = _no_lines
    loosened: Callable[[Any, Block], Iterator[str]] = _no_lines

    @property
    def owner(self) -> str:
        """Return the name of the guard or metric of the limit."""
        return self.limit.partition(".")[0]


Values = Sequence[float | None]


def _from_no_change(change: NullChange, policy: Block) -> Values:
    return ()


def _from_no_report(block: Block) -> Values:
    return ()


@dataclass(frozen=True)
class FittedLimit:
    """A limit of a tier that can be fitted.

    Attributes:
        limit: its dotted name in the policy.
        propose: returns the observed level and the proposed limit, given at least one value.
        of_change: returns the values of one null change, given the tier's policy.
        of_report: returns the values of a report that passes, given the block of the guard or metric.
    """

    limit: str
    propose: Callable[[Sequence[float]], tuple[float, Any]]
    of_change: Callable[[NullChange, Block], Values] = _from_no_change
    of_report: Callable[[Block], Values] = _from_no_report


def largest_with_margin(values: Sequence[float]) -> tuple[float, Any]:
    """Return the 97.5 % quantile of values, and 1.1 times that quantile, at least 0, as a limit."""
    level = upper_quantile(values)
    return level, rounded(MARGIN * max(0.0, level))


def largest_ratio_with_margin(logarithms: Sequence[float]) -> tuple[float, Any]:
    """Return the 97.5 % quantile of absolute logarithms, and the ratio of 1.1 times that quantile."""
    level = upper_quantile([abs(value) for value in logarithms])
    return level, rounded(math.exp(MARGIN * level))


def upper_quantile(values: Sequence[float]) -> float:
    """Return the 97.5 % quantile of values."""
    # imported here because NumPy takes 80 ms, and reading the names of guards does not need it
    from invarlock.statistics.intervals import quantile

    return quantile(values, QUANTILE)


def robust_deviation(values: Sequence[float]) -> float:
    """Return 1.4826 times the median absolute deviation, a robust estimate of the standard deviation."""
    # imported here for the same reason
    from invarlock.statistics.intervals import quantile

    middle = quantile(values, 0.5)
    return MAD_TO_DEVIATION * quantile([abs(value - middle) for value in values], 0.5)
