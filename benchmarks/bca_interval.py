"""Our BCa interval (400 windows × 3,200 replicates) against scipy's in the same process, and its growth with windows.

    python benchmarks/bca_interval.py

Resamples are cached for the next interval with the same seed and number of windows, which the cases of a run share.
The first interval and a later one are therefore timed separately. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from invarlock.statistics.intervals import bca_interval

WINDOWS, REPLICATES, ROUNDS = 400, 3200, 9
SIZES, GROWTH_REPLICATES = (64, 256, 1024, 4096), 1200


def ratio_of_sums(products: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    means: npt.NDArray[np.float64] = products.sum(axis=axis) / weights.sum(axis=axis)
    return means


def pairs(windows: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.normal(0.01, 0.05, windows), draw.integers(100, 128, windows)


def ours(windows: int, replicates: int) -> Callable[[int], object]:
    """Return a function that computes our interval for a seed."""
    deltas, tokens = (column.tolist() for column in pairs(windows))
    return lambda seed: bca_interval(deltas, tokens, replicates=replicates, alpha=0.05, seed=seed)


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def shortest(works: Callable[[int], list[Callable[[], object]]]) -> list[float]:
    """Return the shortest time of each function; they run alternately, for several rounds."""
    rounds = [[seconds(work) for work in works(number)] for number in range(ROUNDS)]
    return [min(column) for column in zip(*rounds, strict=True)]


def main() -> None:
    deltas, tokens = pairs(WINDOWS)
    own = ours(WINDOWS, REPLICATES)
    theirs = partial(bootstrap, (deltas * tokens, tokens), ratio_of_sums, paired=True, n_resamples=REPLICATES, rng=1)
    first, further, scipys = shortest(lambda seed: [partial(own, seed), partial(own, seed), theirs])
    print(f"{WINDOWS} windows, {REPLICATES} replicates: scipy {scipys * 1e3:.1f} ms")
    print(f"  the first of a run {first * 1e3:.1f} ms, {first / scipys:.2f} of scipy's")
    print(f"  a further one {further * 1e3:.1f} ms, {further / scipys:.2f} of scipy's; reach: at most 0.2")
    works = [ours(size, GROWTH_REPLICATES) for size in SIZES]
    for size, taken in zip(SIZES, shortest(lambda seed: [partial(work, seed) for work in works]), strict=True):
        print(f"{size} windows, {GROWTH_REPLICATES} replicates: {taken * 1e3:.2f} ms, {taken / size * 1e6:.2f} µs each")


if __name__ == "__main__":
    main()
