"""Ways of rounding a matrix to few bits, as common tools do, and the mistakes that exporters make.

Example::

    ROUNDINGS["nf4"](weight, None)      # what bitsandbytes gives back for a weight (out, in) that it packed
    broken("floor", weight)             # rounded down where it should be rounded to the nearest code

NF4 is rounded by bitsandbytes, MXFP4 and NVFP4 by torchao, Q4_0 to Q8_0 by gguf; the rest is written out here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from invarlock.edits.fp8_quant import quantize_fp8
from invarlock.edits.quant_rtn import quantize_rtn

GROUP = 32
# This share of the mean of a Hessian's diagonal is added to the diagonal before inversion (GPTQ, arXiv 2210.17323).
DAMPING = 0.01
LARGEST_FP8 = 448.0
# Takes a float32 weight (out, in) and its inputs (tokens, in), or None if the method needs no inputs.
Rounding = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def asymmetric(weight: torch.Tensor, bits: int, group: int = GROUP) -> torch.Tensor:
    """Return a weight rounded to a grid between the smallest and the largest value of each group."""
    codes, scale, zero = asymmetric_codes(weight, bits, group)
    return ((codes - zero) * scale).reshape(weight.shape)


def asymmetric_codes(
    weight: torch.Tensor, bits: int, group: int = GROUP
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the codes (out, groups, group), the scales and the zero points of a weight."""
    parts = weight.reshape(len(weight), -1, group)
    low, high = parts.amin(dim=2, keepdim=True).clamp_max(0), parts.amax(dim=2, keepdim=True).clamp_min(0)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    zero = (-low / scale).round()
    return (parts / scale + zero).round().clamp(0, 2**bits - 1), scale, zero


def gptq(weight: torch.Tensor, inputs: torch.Tensor | None, bits: int = 4) -> torch.Tensor:
    """Return a weight rounded column by column, with each column's error spread over the later columns (GPTQ)."""
    assert inputs is not None
    hessian = inputs.double().T @ inputs.double()
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    left, rounded = weight.double().clone(), torch.empty_like(weight, dtype=torch.float64)
    scale = torch.empty(0)
    for column in range(weight.shape[1]):
        if column % GROUP == 0:
            largest = left[:, column : column + GROUP].abs().amax(dim=1)
            scale = (largest / (2 ** (bits - 1) - 1)).clamp_min(1e-12)
        codes = (left[:, column] / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        rounded[:, column] = codes * scale
        error = (left[:, column] - rounded[:, column]) / inverse[column, column]
        left[:, column + 1 :] -= error[:, None] * inverse[column, None, column + 1 :]
    return rounded.float()


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight that bitsandbytes rounded to NF4 in blocks of 64."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4")
    result: torch.Tensor = dequantize_4bit(packed, state)
    return result


def mxfp4(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight that torchao rounded to MXFP4: blocks of 32, each with a power of two."""
    from torchao.prototype.mx_formats.mx_tensor import MXTensor  # type: ignore[import-untyped] # untyped

    result: torch.Tensor = MXTensor.to_mx(weight.bfloat16(), torch.float4_e2m1fn_x2, 32).dequantize(torch.float32)
    return result


def nvfp4(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight that torchao rounded to NVFP4: blocks of 16 with an FP8 scale each, and one tensor scale."""
    from torchao.prototype.mx_formats.nvfp4_tensor import (  # type: ignore[import-untyped] # untyped
        NVFP4Tensor,
        per_tensor_amax_to_scale,
    )

    whole = per_tensor_amax_to_scale(weight.abs().max())
    result: torch.Tensor = NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=whole).dequantize(torch.float32)
    return result


def ggml(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Return a weight that the gguf package rounded to a type of llama.cpp."""
    import gguf

    chosen = gguf.GGMLQuantizationType[kind]
    return torch.from_numpy(gguf.dequantize(gguf.quantize(weight.contiguous().numpy(), chosen), chosen).copy())


ROUNDINGS: dict[str, Rounding] = {
    "RTN 8 bit": lambda weight, _: quantize_rtn(weight, 8, 128),
    "FP8 scaled by row": lambda weight, _: quantize_fp8(weight, "e4m3"),
    "RTN 4 bit": lambda weight, _: quantize_rtn(weight, 4, GROUP),
    "asymmetric RTN 4 bit": lambda weight, _: asymmetric(weight, 4),
    "GPTQ 4 bit": gptq,
    "NF4": lambda weight, _: nf4(weight),
    "MXFP4": lambda weight, _: mxfp4(weight),
    "NVFP4": lambda weight, _: nvfp4(weight),
    "GGUF Q8_0": lambda weight, _: ggml(weight, "Q8_0"),
    "GGUF Q4_1": lambda weight, _: ggml(weight, "Q4_1"),
    "GGUF Q4_0": lambda weight, _: ggml(weight, "Q4_0"),
}
# The roundings that are also applied after a change that keeps the function.
TO_4_BITS = ("RTN 4 bit", "asymmetric RTN 4 bit", "GPTQ 4 bit", "NF4", "MXFP4", "NVFP4")


def broken(mistake: str, weight: torch.Tensor, bits: int = 4) -> torch.Tensor:
    """Return a weight rounded with a mistake: ``floor``, ``scales``, ``zero point`` or ``nibbles``."""
    if mistake == "zero point":
        codes, scale, zero = asymmetric_codes(weight, bits)
        return ((codes - zero - 1) * scale).reshape(weight.shape)
    parts = weight.reshape(len(weight), -1, GROUP)
    largest = 2 ** (bits - 1) - 1
    scale = (parts.abs().amax(dim=2, keepdim=True) / largest).clamp_min(1e-12)
    exact = parts / scale
    codes = (exact.floor() if mistake == "floor" else exact.round()).clamp(-largest - 1, largest)
    if mistake == "scales":
        scale = scale.roll(1, dims=1)
    if mistake == "nibbles":
        codes = codes.reshape(*codes.shape[:2], -1, 2).flip(3).flatten(2)
    rounded: torch.Tensor = (codes * scale).reshape(weight.shape)
    return rounded


def unscaled_fp8(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight cast to FP8 (e4m3) without a scale, so that what exceeds 448 is cut off."""
    cast: torch.Tensor = weight.clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn).float()
    return cast
