"""Symmetric round-to-nearest quantisation by groups along the input dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invarlock.edits.edit import Edit, Parameter, Parameters, at_least, whole_number
from invarlock.edits.rows import by_rows

if TYPE_CHECKING:
    import torch

MIN_BITS, MAX_BITS = 2, 8
# The pairs of bits and group size that the tuner tries, from mild to strong.
LADDER: tuple[tuple[int, int], ...] = (
    (8, 128), (7, 128), (6, 128), (5, 128), (4, 32), (4, 64), (4, 128), (3, 32), (3, 64), (3, 128), (2, 32), (2, 128),
)  # fmt: skip


def quantize_rtn(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """Return ``weight`` rounded to ``bits`` and scaled back, in its own dtype.

    With s = max|w| / (2^(bits-1) - 1) over a group, w' = clamp(round(w / s), -2^(bits-1), 2^(bits-1) - 1) * s,
    half to even. The last group of a row may be short; a group of zeros stays zero. Arithmetic is float32.

    Args:
        weight: matrix, shape (out, in).
        bits: 2 to 8.
        group_size: inputs per group, at least 1.

    Raises:
        ValueError: when ``bits`` or ``group_size`` is out of range, or ``weight`` is not a matrix.
    """
    # imported here because specs are also read where PyTorch is not installed
    import torch

    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}, not {bits}")
    if group_size < 1:
        raise ValueError(f"group size must be at least 1, not {group_size}")
    if weight.ndim != 2:
        raise ValueError(f"a matrix is needed, not shape {tuple(weight.shape)}")
    rows, inputs = weight.shape
    padding = -inputs % group_size
    values = weight.to(torch.float32, copy=True)
    padded = torch.nn.functional.pad(values, (0, padding)) if padding else values
    grouped = padded.view(rows, -1, group_size)  # (out, groups, group)
    largest = 2 ** (bits - 1) - 1
    scale = grouped.abs().amax(dim=2, keepdim=True) / largest  # (out, groups, 1)
    # A group of zeros has scale 0, and so may a group of subnormal numbers: dividing by 1 turns both into zeros.
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    grouped.div_(divisor).round_().clamp_(-largest - 1, largest).mul_(scale)
    return padded[:, :inputs].to(weight.dtype)


def round_matrix(weight: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    """Return a matrix (out, in) rounded by the parameters of ``GRID``."""
    bits, group_size = int(parameters["bits"]), int(parameters["group_size"])
    return by_rows(weight, lambda rows: quantize_rtn(rows, bits, group_size))


def _ladder(smallest_side: int) -> list[Parameters]:
    return [{"bits": bits, "group_size": group_size} for bits, group_size in LADDER]


GRID = (
    Parameter("bits", whole_number("bits", MIN_BITS, MAX_BITS), at_least(MIN_BITS)),
    Parameter("group_size", whole_number("group_size", 1, 1 << 20), at_least(1)),
)

QUANT_RTN = Edit(
    name="quant_rtn",
    parameters=GRID,
    syntax="quant_rtn:<bits 2..8>:<group size>:<scope>",
    apply=round_matrix,
    storage_format="float_dequantized",
    semantics="weights rounded to a grid and stored as floats again",
    ladder=_ladder,
)
