"""BCa interval of 400 windows × 3,200 replicates against scipy's, in the same process.

python benchmarks/bca_interval.py
"""

from __future__ import annotations

import time

import numpy as np
from scipy.stats import bootstrap

from invarlock.reports.statistics import bca_interval

WINDOWS, REPLICATES, REPEATS = 400, 3200, 5


def main() -> None:
    draw = np.random.default_rng(0)
    deltas, tokens = draw.normal(0.01, 0.05, WINDOWS), draw.integers(100, 128, WINDOWS)

    def ratio_of_sums(products: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
        return products.sum(axis=axis) / weights.sum(axis=axis)

    ours, theirs = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        interval = bca_interval(deltas.tolist(), tokens.tolist(), replicates=REPLICATES, alpha=0.05, seed=1)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        reference = bootstrap(
            (deltas * tokens, tokens), ratio_of_sums, paired=True, method="BCa", n_resamples=REPLICATES, rng=1
        ).confidence_interval
        theirs.append(time.perf_counter() - started)
    print(f"ours   [{interval.low:.6f}, {interval.high:.6f}] {min(ours) * 1e3:.1f} ms")
    print(f"scipy  [{reference.low:.6f}, {reference.high:.6f}] {min(theirs) * 1e3:.1f} ms")
    print(f"ratio  {min(ours) / min(theirs):.2f}")


if __name__ == "__main__":
    main()
