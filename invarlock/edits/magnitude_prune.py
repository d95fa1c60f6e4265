"""Setting the smallest weights of a matrix to zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from invarlock.edits.edit import Edit, Parameter, Parameters
from invarlock.errors import UsageError
from invarlock.problems import Code

if TYPE_CHECKING:
    import torch

# Ties are counted in pieces that fit in a core's cache.
PIECE_ELEMENTS = 256 * 1024
# The fractions that the tuner tries.
LADDER_STEP, LADDER_STEPS = 0.02, 40


def prune_magnitude(weight: torch.Tensor, fraction: float) -> torch.Tensor:
    """Return ``weight`` with exactly ``floor(fraction * numel)`` of its smallest magnitudes set to zero.

    Ties go to the lower index (row by row), so that the sparsity is exact and the result repeatable.

    Args:
        weight: matrix, shape (out, in).
        fraction: at least 0 and below 1.

    Raises:
        ValueError: when ``fraction`` is out of range or ``weight`` is not a matrix.
    """
    # imported here because specs are also read where PyTorch is not installed
    import torch

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
    # multiplying integers by a mask takes a third of the time of a masked assignment
    bits = pruned.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[pruned.element_size()])
    bits[:end].mul_(order[:end] > threshold)
    bits[end:].mul_(order[end:] >= threshold)
    return pruned.view_as(weight)


def _end_of_ties(order: torch.Tensor, threshold: int, ties: int) -> int:
    """Return the index after the first ``ties`` elements that equal ``threshold``; at least that many must exist."""
    import torch  # here, as above

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
    """Return integers in the order of the elements' magnitudes: the bits of each float without its sign.

    float16 and bfloat16 give int16; every other dtype is converted to float32 and gives int32.
    """
    import torch  # here, as above

    if flat.dtype in (torch.float16, torch.bfloat16):
        return flat.view(torch.int16) & 0x7FFF
    return flat.float().view(torch.int32) & 0x7FFFFFFF


def _order_statistic(order: torch.Tensor, count: int) -> tuple[int, int]:
    """Return the ``count``-th smallest of non-negative integers, and how many are below it.

    Counts by 16 bits at a time, highest bits first. This takes one or two passes over the data; a selection takes many.
    """
    import torch  # here, as above

    if order.dtype == torch.int16:
        return _counted(order, count)
    bucket, before = _counted(order >> 16, count)
    low, within = _counted(order[(order >> 16) == bucket] & 0xFFFF, count - before)
    return (bucket << 16) + low, before + within


def _counted(values: torch.Tensor, count: int) -> tuple[int, int]:
    import torch  # here, as above

    totals = torch.bincount(values).cumsum(0)
    found = int(torch.searchsorted(totals, count))
    return found, int(totals[found - 1]) if found else 0


def _read_fraction(text: str, where: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if 0 < fraction < 1:
        return fraction
    raise UsageError(
        f"the fraction to prune must be between 0 and 1, not {text!r}", code=Code.EDIT_SPEC_INVALID, where=where
    )


def _apply(weight: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    return prune_magnitude(weight, float(parameters["sparsity"]))


def _ladder(smallest_side: int) -> list[Parameters]:
    return [{"sparsity": round(LADDER_STEP * step, 2)} for step in range(1, LADDER_STEPS + 1)]


MAGNITUDE_PRUNE = Edit(
    name="magnitude_prune",
    parameters=(
        Parameter("sparsity", _read_fraction, {"exclusiveMaximum": 1, "exclusiveMinimum": 0, "type": "number"}),
    ),
    syntax="magnitude_prune:<fraction>:<scope>",
    apply=_apply,
    storage_format="dense_float_with_zeros",
    semantics="the smallest weights set to zero, stored densely",
    ladder=_ladder,
)
