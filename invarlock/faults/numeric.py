"""Faults in the numbers of weights: non-finite elements, extreme rounding, exploded and collapsed matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from invarlock.checkpoints.architectures import Family
from invarlock.checkpoints.rewriting import Make
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.edits.quant_rtn import quantize_rtn
from invarlock.errors import EditError
from invarlock.faults.fault import Fault
from invarlock.faults.parameters import Parameters
from invarlock.faults.selection import (
    BREAKABLE_DTYPES,
    FaultPlan,
    breakable_matrices,
    by_matrix,
    named_tensors,
    nothing_to_break,
    replacing,
)

EXTREME_BITS = 2


def inject_nan(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Set the first element of one matrix of the first block to NaN: the first FFN matrix, else attention.

    Params: ``tensor``, the exact name of another tensor.
    """
    return _set_one_element(files, "nan_injection", params, math.nan, ("ffn", "attn"))


def inject_inf(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Set the first element of one matrix of the first block to infinity: the first of attention, else FFN.

    Params: ``tensor``, the exact name of another tensor.
    """
    return _set_one_element(files, "inf_injection", params, math.inf, ("attn", "ffn"))


def quantize_extremely(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Round every 2-D weight, and every expert of a stack, to 2 bits with one scale a tensor. No params."""
    used = Parameters("extreme_quant", params).finish()
    names = [
        name
        for name, entry in files.entries.items()
        if entry.dtype in BREAKABLE_DTYPES and entry.elements and (len(entry.shape) == 2 or files.modules[name].experts)
    ]
    if not names:
        raise nothing_to_break(files, "extreme_quant", "2-D weight")

    def make(matrix: torch.Tensor) -> torch.Tensor:
        return quantize_rtn(matrix.reshape(1, -1), EXTREME_BITS, matrix.numel()).view_as(matrix)

    detail = f"{len(names)} tensors rounded to {EXTREME_BITS} bits, one scale each"
    return FaultPlan(replacing(names, by_matrix(make)), used, detail)


def explode_scale(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Multiply the first FFN matrix by ``factor`` (100). Params: ``tensor`` (exact name), ``factor``."""
    reader = Parameters("scale_explosion", params)
    tensor = reader.text("tensor")
    factor = reader.number("factor", 100.0)
    used = reader.finish()
    if tensor is None:
        tensor = next(iter(breakable_matrices(files, "ffn")), None)
        if tensor is None:
            raise nothing_to_break(files, "scale_explosion", "FFN matrix")
    names = named_tensors(files, "scale_explosion", [tensor])
    return FaultPlan(replacing(names, scaling("scale_explosion", factor)), used, f"{tensor} multiplied by {factor:g}")


def collapse_rank(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Make the first attention matrices rank 1, first column times first row, with their Frobenius norm.

    Params: ``max_tensors`` (8).
    """
    reader = Parameters("rank_collapse", params)
    limit = reader.count("max_tensors", 8)
    used = reader.finish()
    names = list(breakable_matrices(files, "attn"))[:limit]
    if not names:
        raise nothing_to_break(files, "rank_collapse", "attention matrix")

    def make(matrix: torch.Tensor) -> torch.Tensor:
        outer = torch.outer(matrix[:, 0], matrix[0, :])
        size = torch.linalg.vector_norm(outer, dtype=torch.float64)
        if size == 0:
            raise EditError(
                f"fault rank_collapse: an attention matrix of {files.folder} has a first row or column of zeros; "
                "take another model"
            )
        return outer * float(torch.linalg.vector_norm(matrix, dtype=torch.float64) / size)

    return FaultPlan(replacing(names, by_matrix(make)), used, f"{len(names)} attention matrices made rank 1")


def collapse_norm(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Multiply the first attention matrices by ``factor`` (0). Params: ``max_tensors`` (32), ``factor`` (0 to 1)."""
    reader = Parameters("norm_collapse", params)
    limit = reader.count("max_tensors", 32)
    factor = reader.number("factor", 0.0, low=0, high=1)
    used = reader.finish()
    names = list(breakable_matrices(files, "attn"))[:limit]
    if not names:
        raise nothing_to_break(files, "norm_collapse", "attention matrix")
    detail = f"{len(names)} attention matrices multiplied by {factor:g}"
    return FaultPlan(replacing(names, scaling("norm_collapse", factor)), used, detail)


def scaling(error_type: str, factor: float) -> Make:
    """Return a multiplication in float32; a product that the stored dtype cannot hold is an EditError."""

    def make(weight: torch.Tensor) -> torch.Tensor:
        scaled = (weight.float() * factor).to(weight.dtype)
        if not bool(scaled.isfinite().all()):
            raise EditError(f"fault {error_type}: a factor of {factor:g} leaves {weight.dtype}; use a smaller one")
        return scaled

    return make


def _set_one_element(
    files: CheckpointFiles, error_type: str, params: Mapping[str, Any], value: float, order: tuple[Family, ...]
) -> FaultPlan:
    reader = Parameters(error_type, params)
    tensor = reader.text("tensor")
    used = reader.finish()
    if tensor is None:
        tensor = _in_first_block(files, error_type, order)
    names = named_tensors(files, error_type, [tensor])

    def make(weight: torch.Tensor) -> torch.Tensor:
        broken = weight.clone(memory_format=torch.contiguous_format)
        broken.view(-1)[0] = value
        return broken

    return FaultPlan(replacing(names, make), used, f"element 0 of {tensor} set to {value}")


def _in_first_block(files: CheckpointFiles, error_type: str, order: tuple[Family, ...]) -> str:
    found = breakable_matrices(files, "attn", "ffn")
    first = min((module.layer for module in found.values() if module.layer is not None), default=None)
    for family in order:
        for name, module in found.items():
            if module.family == family and module.layer == first:
                return name
    raise nothing_to_break(files, error_type, "attention or FFN matrix")


NAN_INJECTION = Fault("nan_injection", inject_nan)
INF_INJECTION = Fault("inf_injection", inject_inf)
EXTREME_QUANT = Fault("extreme_quant", quantize_extremely)
SCALE_EXPLOSION = Fault("scale_explosion", explode_scale)
RANK_COLLAPSE = Fault("rank_collapse", collapse_rank)
NORM_COLLAPSE = Fault("norm_collapse", collapse_norm)
