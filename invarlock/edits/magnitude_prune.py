"""Setting the smallest weights of a matrix to zero."""

from __future__ import annotations

import math

import torch

# The integers of a float's size in bytes.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Ties are counted in pieces that stay in a core's cache.
PIECE_ELEMENTS = 256 * 1024


def prune_magnitude(weight: torch.Tensor, fraction: float) -> torch.Tensor:
    """Return ``weight`` with exactly ``floor(fraction * numel)`` of its smallest magnitudes set to zero.

    Ties go to the lower index (row by row), so that the sparsity is exact and the result repeatable.

    Args:
        weight: matrix, shape (out, in).
        fraction: at least 0 and below 1.

    Raises:
        ValueError: when ``fraction`` is out of range or ``weight`` is no matrix.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be at least 0 and below 1, not {fraction}")
    if weight.ndim != 2:
        raise ValueError(f"a matrix is needed, not shape {tuple(weight.shape)}")
    count = math.floor(fraction * weight.numel())
    if count == 0:
        return weight.clone()
    flat = weight.contiguous().flatten()
    order = _magnitude_order(flat)
    threshold, below = _order_statistic(order, count)
    end = _end_of_ties(order, threshold, count - below)
    pruned = flat.clone()
    # integer products with a mask take a third of the time of an assignment under it
    bits = pruned.view(_BITS[pruned.element_size()])
    bits[:end].mul_(order[:end] > threshold)
    bits[end:].mul_(order[end:] >= threshold)
    return pruned.view_as(weight)


def _end_of_ties(order: torch.Tensor, threshold: int, ties: int) -> int:
    """Return the index after the first ``ties`` elements that equal ``threshold``; there are as many."""
    start = 0
    for piece in torch.split(order, PIECE_ELEMENTS):
        equal = piece == threshold
        found = int(equal.count_nonzero())
        if found >= ties:
            return start + int(equal.nonzero()[ties - 1]) + 1
        ties -= found
        start += len(piece)
    raise AssertionError("fewer ties than counted")


def _magnitude_order(flat: torch.Tensor) -> torch.Tensor:
    """Return integers that order elements as their magnitudes do: the bits of a float without its sign.

    float16 and bfloat16 give int16, every other dtype is taken as float32 and gives int32.
    """
    if flat.dtype in (torch.float16, torch.bfloat16):
        return flat.view(torch.int16) & 0x7FFF
    return flat.float().view(torch.int32) & 0x7FFFFFFF


def _order_statistic(order: torch.Tensor, count: int) -> tuple[int, int]:
    """Return the ``count``-th smallest of non-negative integers, and how many are below it.

    By counting, 16 bits at a time from the top: one or two passes over the data, where a selection needs many.
    """
    if order.dtype == torch.int16:
        return _counted(order, count)
    bucket, before = _counted(order >> 16, count)
    low, within = _counted(order[(order >> 16) == bucket] & 0xFFFF, count - before)
    return (bucket << 16) + low, before + within


def _counted(values: torch.Tensor, count: int) -> tuple[int, int]:
    totals = torch.bincount(values).cumsum(0)
    found = int(torch.searchsorted(totals, count))
    return found, int(totals[found - 1]) if found else 0
