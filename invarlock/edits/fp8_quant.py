"""Casting weights to an 8-bit float and back, each output row scaled to the format's range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invarlock.edits.edit import Edit, Parameter, Parameters, one_of
from invarlock.edits.rows import by_rows

if TYPE_CHECKING:
    import torch

# The formats from mild to strong, with their dtype names in PyTorch.
FORMATS = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}


def quantize_fp8(weight: torch.Tensor, fp8_format: str) -> torch.Tensor:
    """Return ``weight`` cast to float8 and back, in its own dtype.

    Each row is scaled so that its largest magnitude is the format's maximum (448 for e4m3, 57344 for e5m2):
    finite weights never become infinite or NaN. Rows of zeros stay zero. Arithmetic is float32.

    Args:
        weight: matrix, shape (out, in).
        fp8_format: ``e4m3`` or ``e5m2``.

    Raises:
        ValueError: when the format is unknown or ``weight`` is not a matrix.
    """
    # imported here because specs are also read where PyTorch is not installed
    import torch

    if fp8_format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {fp8_format!r}")
    if weight.ndim != 2:
        raise ValueError(f"a matrix is needed, not shape {tuple(weight.shape)}")
    dtype: torch.dtype = getattr(torch, FORMATS[fp8_format])
    maximum = torch.finfo(dtype).max
    values = weight.to(torch.float32, copy=True)
    scale = values.abs().amax(dim=1, keepdim=True) / maximum  # (out, 1)
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    # The quotient may pass the maximum by one rounding step, which some casts turn into infinity.
    narrow = values.div_(divisor).clamp_(-maximum, maximum).to(dtype)
    return values.copy_(narrow).mul_(scale).to(weight.dtype)


def _apply(weight: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    return by_rows(weight, lambda rows: quantize_fp8(rows, str(parameters["format"])))


def _ladder(smallest_side: int) -> list[Parameters]:
    return [{"format": name} for name in FORMATS]


FP8_QUANT = Edit(
    name="fp8_quant",
    parameters=(Parameter("format", one_of("format", tuple(FORMATS)), {"enum": list(FORMATS)}),),
    syntax="fp8_quant:<e4m3|e5m2>:<scope>",
    apply=_apply,
    storage_format="float_dequantized",
    semantics="weights cast to an 8-bit float and stored as floats again",
    ladder=_ladder,
)
