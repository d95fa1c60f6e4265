"""Faults that perplexity hardly sees: rows blended toward one direction, moderate scales."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from invarlock.checkpoints.architectures import Role
from invarlock.checkpoints.rewriting import Replacement, Rewrite
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.errors import EditError
from invarlock.faults.fault import Fault
from invarlock.faults.numeric import scaling
from invarlock.faults.parameters import Parameters
from invarlock.faults.selection import (
    FaultPlan,
    breakable_matrices,
    by_matrix,
    named_tensors,
    nothing_to_break,
    replacing,
    with_matrix_role,
)

DIRECTION_FAMILIES = ("ffn", "attn")
# Fewer rows or a weaker blend than this is rounding, not a fault.
SMALLEST_SHARE = 0.001


def skew_ffn_output(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Multiply the FFN output matrix of one block (of every expert there) by ``factor`` (0.9).

    Params: ``module`` (exact tensor name) or ``layer`` (0), ``factor``.
    """
    reader = Parameters("ve_mlp_scale_skew", params)
    module = reader.text("module")
    layer = reader.count("layer", 0, low=0) if module is None else None
    factor = reader.number("factor", 0.9)
    used = reader.finish()
    if module is not None:
        names = named_tensors(files, "ve_mlp_scale_skew", [module])
    else:
        known = breakable_matrices(files, "ffn")
        names = [name for name, found in known.items() if found.role == "down" and found.layer == layer]
        if not names:
            raise nothing_to_break(files, "ve_mlp_scale_skew", f"FFN output matrix in block {layer}")
    detail = f"{', '.join(names)} multiplied by {factor:g}"
    return FaultPlan(replacing(names, scaling("ve_mlp_scale_skew", factor)), used, detail)


def _blend_rows(error_type: str, default_blend: float, files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    """Blend rows of matrices toward one direction, and keep their norms.

    With unit rows u, a seeded unit direction d and blend b, a chosen row becomes |w| (b d + (1 - b) u) / |…|.

    Params: ``modules`` (exact tensor names) or ``family`` (ffn: all its matrices), ``fraction`` of the rows (0.2),
    ``blend``, ``seed``. Rows and direction are drawn anew from the seed for each matrix (out, in).
    """
    reader = Parameters(error_type, params)
    modules = reader.texts("modules")
    family = reader.choice("family", "ffn", DIRECTION_FAMILIES) if modules is None else None
    fraction = reader.number("fraction", 0.2, low=SMALLEST_SHARE, high=1)
    blend = reader.number("blend", default_blend, low=SMALLEST_SHARE, high=1)
    seed = reader.count("seed", 0, low=0)
    used = reader.finish()
    known = breakable_matrices(files, "ffn", "attn")
    if modules is None:
        names = [name for name, module in known.items() if module.family == family]
        if not names:
            raise nothing_to_break(files, error_type, f"{family} matrix")
    else:
        names = named_tensors(files, error_type, modules)
        for name in names:
            if name not in known:
                raise EditError(f"fault {error_type}: {name!r} is not an attention or FFN matrix; name one that is")

    def make(matrix: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(matrix.shape[0], generator=generator)[: max(1, round(fraction * matrix.shape[0]))]
        direction = torch.nn.functional.normalize(torch.randn(matrix.shape[1], generator=generator), dim=0)
        chosen = matrix[rows]
        mixed = blend * direction + (1 - blend) * torch.nn.functional.normalize(chosen, dim=1)
        blended = matrix.clone()
        blended[rows] = torch.nn.functional.normalize(mixed, dim=1) * chosen.norm(dim=1, keepdim=True)
        return blended

    def make_transposed(matrix: torch.Tensor) -> torch.Tensor:
        return make(matrix.T).T

    tensors = {
        name: Replacement(name, by_matrix(make_transposed if known[name].transposed else make)) for name in names
    }
    return FaultPlan(Rewrite(tensors), used, f"{fraction:g} of the rows of {len(names)} matrices blended by {blend:g}")


def _scale_moderately(
    error_type: str, role: Role, default_factor: float, files: CheckpointFiles, params: Mapping[str, Any]
) -> FaultPlan:
    """Multiply the first matrices of a role, or named ones, by a factor.

    Params: ``factor``, ``max_modules`` (8), ``modules`` (exact tensor names).
    """
    reader = Parameters(error_type, params)
    factor = reader.number("factor", default_factor)
    limit = reader.count("max_modules", 8)
    modules = reader.texts("modules")
    used = reader.finish()
    found = with_matrix_role(files, role) if modules is None else named_tensors(files, error_type, modules)
    if not found:
        raise nothing_to_break(files, error_type, f"{role!r} matrix")
    names = found[:limit]
    detail = f"{len(names)} matrices multiplied by {factor:g}"
    return FaultPlan(replacing(names, scaling(error_type, factor)), used, detail)


RMT_NORM_NOISE = Fault("rmt_norm_noise", partial(_blend_rows, "rmt_norm_noise", 0.5))
RMT_NORM_NOISE_STRONG = Fault("rmt_norm_noise_strong", partial(_blend_rows, "rmt_norm_noise_strong", 0.8))
SPECTRAL_MODERATE_SCALE = Fault(
    "spectral_moderate_scale", partial(_scale_moderately, "spectral_moderate_scale", "o", 1.5)
)
SPECTRAL_MODERATE_SCALE_MLP = Fault(
    "spectral_moderate_scale_mlp", partial(_scale_moderately, "spectral_moderate_scale_mlp", "up", 1.4)
)
VE_MLP_SCALE_SKEW = Fault("ve_mlp_scale_skew", skew_ffn_output)
