"""Coverage of the BCa interval by simulation: how often it holds the true value, nominally 95 %.

python benchmarks/interval_coverage.py [--trials 2000]

Losses differ as they do between a model and its edit: by window skewed, heavy-tailed, or more where windows are short.
Token counts are unequal. The true value is E[t * delta] / E[t].
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from invarlock.reports.statistics import bca_interval

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, npt.NDArray[np.int64]]]
LARGE = 2_000_000
ALPHA, REPLICATES = 0.05, 1200


def tokens(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    """A third of the windows are cut short."""
    return np.where(rng.random(count) < 1 / 3, rng.integers(16, 127, count), 127)


def normal(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    return rng.normal(0.01, 0.03, count), tokens(rng, count)


def skewed(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    return rng.gamma(1.5, 0.02, count) - 0.01, tokens(rng, count)


def heavy(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    return 0.01 + 0.02 * rng.standard_t(4, count), tokens(rng, count)


def short_windows_differ_more(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    weights = tokens(rng, count)
    return 0.01 + rng.normal(0.0, 0.03, count) * np.sqrt(127 / weights), weights


SHAPES: tuple[Draw, ...] = (normal, skewed, heavy, short_windows_differ_more)


def covered(shape: Draw, windows: int, trials: int) -> int:
    """Return in how many trials the interval held the true value."""
    rng = np.random.Generator(np.random.PCG64(20261124))
    deltas, weights = shape(rng, LARGE)
    truth = float((deltas * weights).sum() / weights.sum())
    hits = 0
    for trial in range(trials):
        deltas, weights = shape(rng, windows)
        interval = bca_interval(deltas.tolist(), weights.tolist(), replicates=REPLICATES, alpha=ALPHA, seed=trial)
        hits += interval.low <= truth <= interval.high
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    print(f"{REPLICATES} replicates, {trials} trials, alpha {ALPHA}")
    print("| differences | windows | coverage | standard error |\n| --- | --- | --- | --- |")
    for shape in SHAPES:
        for windows in (32, 64, 200):
            share = covered(shape, windows, trials) / trials
            print(
                f"| {shape.__name__.replace('_', ' ')} | {windows} | {share:.3f} | "
                f"{math.sqrt(share * (1 - share) / trials):.3f} |"
            )


if __name__ == "__main__":
    main()
