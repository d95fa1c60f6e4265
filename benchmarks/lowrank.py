"""The low-rank edit of a large matrix compared with the full SVD: its time, and its error against the best possible.

    python benchmarks/lowrank.py [--shape 4096 14336] [--rank 32]

The matrix has a spectrum like a trained one: a few large singular values above the bulk. Times are CPU times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from invarlock.edits.lowrank_svd import approximate_lowrank

LEADING = 64


def matrix(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, LEADING, generator=generator)
    right = torch.randn(LEADING, columns, generator=generator)
    strength = 8 / torch.arange(1, LEADING + 1).sqrt()
    made: torch.Tensor = torch.randn(rows, columns, generator=generator) + (left * strength) @ right / LEADING**0.5
    return made


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def full(weight: torch.Tensor, rank: int) -> torch.Tensor:
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    nearest: torch.Tensor = (left[:, :rank] * singular[:rank]) @ right[:rank]
    return nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=[4096, 14336])
    parser.add_argument("--rank", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weight = matrix(*options.shape)
    ours, found = timed(lambda: approximate_lowrank(weight, options.rank))
    theirs, best = timed(lambda: full(weight, options.rank))
    error, least = (float((weight - other).double().norm()) for other in (found, best))
    print(f"rank {options.rank} of {' × '.join(map(str, options.shape))}: {ours:.2f} s, full SVD {theirs:.2f} s")
    print(f"  ratio {ours / theirs:.3f}, reach: at most 0.05")
    print(f"  error {error / least - 1:.2e} beyond the best, reach: 0.01")


if __name__ == "__main__":
    main()
