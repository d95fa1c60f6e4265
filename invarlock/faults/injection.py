"""Injecting a fault into a copy of a checkpoint.

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
from invarlock.faults import BY_NAME


@dataclass(frozen=True)
class FaultSummary:
    """The result of a fault: the parameters including defaults, and the changed, added or dropped tensors, sorted."""

    error_type: str
    parameters_used: Mapping[str, Any]
    changed_tensors: tuple[str, ...]
    detail: str


def inject_fault(error_type: str, baseline: Path, subject: Path, params: Mapping[str, Any]) -> FaultSummary:
    """Make a subject checkpoint with a fault, atomically.

    Args:
        error_type: the name of one of ``FAULTS``.
        baseline: folder of the checkpoint, with finite weights.
        subject: folder to make.
        params: the parameters of the fault, documented in its function.

    Raises:
        EditError: when the fault or a parameter is unknown, a value is out of range, or there is nothing to damage.
        CheckpointError: when the baseline is malformed or not finite, or the subject already exists.
    """
    if error_type not in BY_NAME:
        raise EditError(f"fault {error_type!r} is unknown; known: {', '.join(BY_NAME)}")
    files = read_checkpoint(baseline)
    plan = BY_NAME[error_type].plan(files, params)
    unchanged: set[str] = set()
    rewrite_checkpoint(files, {subject: _watched(error_type, baseline, plan.rewrite, unchanged)})
    changed = tuple(sorted(plan.rewrite.changed(unchanged)))
    return FaultSummary(error_type, plan.parameters, changed, plan.detail)


def _watched(error_type: str, baseline: Path, rewrite: Rewrite, unchanged: set[str]) -> Rewrite:
    """Return the rewrite that records unchanged tensors in ``unchanged``, and fails if all are unchanged."""

    def watched(name: str, make: Make) -> Make:
        def make_and_compare(weight: torch.Tensor) -> torch.Tensor:
            made = make(weight)
            if torch.equal(made, weight):
                unchanged.add(name)
                if unchanged == rewrite.tensors.keys():
                    raise EditError(f"fault {error_type}: changes no tensor of {baseline}; use other parameters")
            return made

        return make_and_compare

    return replace(
        rewrite, tensors={name: replace(made, make=watched(name, made.make)) for name, made in rewrite.tensors.items()}
    )
