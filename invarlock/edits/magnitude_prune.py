"""Setting the smallest weights of a matrix to zero."""

from __future__ import annotations

import math

import torch


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
    magnitudes = weight.float().abs().flatten()
    threshold = magnitudes.kthvalue(count).values
    below = magnitudes < threshold
    ties = (magnitudes == threshold).nonzero().squeeze(1)  # ascending indices
    pruned = weight.clone().flatten()
    pruned[below] = 0
    pruned[ties[: count - int(below.sum())]] = 0
    return pruned.view_as(weight)
