"""A fault that a test adds: the largest weight of one FFN matrix is made larger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.faults.fault import Fault
from invarlock.faults.parameters import Parameters
from invarlock.faults.selection import FaultPlan, breakable_matrices, nothing_to_break, replacing


def _spike(files: CheckpointFiles, params: Mapping[str, Any]) -> FaultPlan:
    reader = Parameters("spike", params)
    factor = reader.number("factor", 3.0)
    used = reader.finish()
    name = next(iter(breakable_matrices(files, "ffn")), None)
    if name is None:
        raise nothing_to_break(files, "spike", "FFN matrix")

    def make(weight: torch.Tensor) -> torch.Tensor:
        made = weight.clone(memory_format=torch.contiguous_format)
        flat = made.view(-1)
        flat[flat.abs().argmax()] *= factor
        return made

    return FaultPlan(replacing([name], make), used, f"the largest weight of {name} multiplied by {factor:g}")


SPIKE = Fault("spike", _spike)
