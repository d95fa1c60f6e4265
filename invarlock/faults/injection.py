"""The faults by name, and putting one into a copy of a checkpoint.

Example::

    inject_fault("scale_explosion", Path("baseline"), Path("subject"), {"factor": 100})
    # FaultSummary(error_type="scale_explosion", parameters_used={"factor": 100}, changed_tensors=(…), detail=…)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from invarlock.checkpoints.rewriting import Make, Rewrite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.errors import EditError
from invarlock.faults.numeric import (
    collapse_norm,
    collapse_rank,
    explode_scale,
    inject_inf,
    inject_nan,
    quantize_extremely,
)
from invarlock.faults.structural import break_tying, drop_last_block, grow_vocabulary
from invarlock.faults.subtle import Fault, blend_rows, scale_moderately, skew_ffn_output

FAULTS: Mapping[str, Fault] = {
    "nan_injection": inject_nan,
    "inf_injection": inject_inf,
    "shape_mismatch": grow_vocabulary,
    "missing_tensors": drop_last_block,
    "extreme_quant": quantize_extremely,
    "scale_explosion": explode_scale,
    "rank_collapse": collapse_rank,
    "norm_collapse": collapse_norm,
    "weight_tying_break": break_tying,
    "rmt_norm_noise": blend_rows("rmt_norm_noise", 0.5),
    "rmt_norm_noise_strong": blend_rows("rmt_norm_noise_strong", 0.8),
    "spectral_moderate_scale": scale_moderately("spectral_moderate_scale", "o", 1.5),
    "spectral_moderate_scale_mlp": scale_moderately("spectral_moderate_scale_mlp", "up", 1.4),
    "ve_mlp_scale_skew": skew_ffn_output,
}


@dataclass(frozen=True)
class FaultSummary:
    """What a fault did: the parameters used, defaults included, and the tensors changed, added or dropped, sorted."""

    error_type: str
    parameters_used: Mapping[str, Any]
    changed_tensors: tuple[str, ...]
    detail: str


def inject_fault(error_type: str, baseline: Path, subject: Path, params: Mapping[str, Any]) -> FaultSummary:
    """Make a subject checkpoint with a fault, whole or not at all.

    Args:
        error_type: a name of ``FAULTS``.
        baseline: folder of the checkpoint, with finite weights.
        subject: folder to make.
        params: of the fault; its function says which it takes.

    Raises:
        EditError: when the fault or a parameter is unknown, a value is out of range, or there is nothing to break.
        CheckpointError: when the baseline is malformed or not finite, or the subject is there already.
    """
    if error_type not in FAULTS:
        raise EditError(f"fault {error_type!r} is unknown; known: {', '.join(FAULTS)}")
    files = read_checkpoint(baseline)
    plan = FAULTS[error_type](files, params)
    unchanged: set[str] = set()
    rewrite_checkpoint(files, {subject: _watched(error_type, baseline, plan.rewrite, unchanged)})
    changed = (plan.rewrite.tensors.keys() - unchanged) | plan.rewrite.drop
    return FaultSummary(error_type, plan.parameters, tuple(sorted(changed)), plan.detail)


def _watched(error_type: str, baseline: Path, rewrite: Rewrite, unchanged: set[str]) -> Rewrite:
    """Return the rewrite that notes in ``unchanged`` what it left as it was, and fails when that is everything."""

    def watched(name: str, make: Make) -> Make:
        def make_and_compare(weight: torch.Tensor) -> torch.Tensor:
            made = make(weight)
            if torch.equal(made, weight):
                unchanged.add(name)
                if unchanged == rewrite.tensors.keys():
                    raise EditError(
                        f"fault {error_type}: leaves every tensor of {baseline} as it was; use other parameters"
                    )
            return made

        return make_and_compare

    return replace(
        rewrite, tensors={name: replace(made, make=watched(name, made.make)) for name, made in rewrite.tensors.items()}
    )
