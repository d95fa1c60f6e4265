"""Faults of packed subjects: codes and scales that do not belong together, as a broken export leaves them.

The subject is the baseline in 4 bits as ``packed_rtn`` stores it, with a defect in the up projections of its FFNs. Each
defect keeps shapes, types and config, so that only the numbers say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from invarlock.checkpoints.families import Module
from invarlock.checkpoints.packing import Parts, pack_checkpoint
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.edits.packed_rtn import CODES, PACKING, SCALE
from invarlock.faults.fault import Fault
from invarlock.faults.parameters import Parameters
from invarlock.faults.selection import BREAKABLE_DTYPES, FaultPlan, nothing_to_break

BITS = 4
LOW_NIBBLES = 0x0F0F0F0F
Damage = Callable[[dict[str, torch.Tensor], float], None]


def _use_other_scales(parts: dict[str, torch.Tensor], spread: float) -> None:
    """Scales from before the rows were scaled: each row's is off by a factor of e^-spread to e^spread."""
    scale = parts[SCALE]
    generator = torch.Generator().manual_seed(0)
    factors = (spread * (2 * torch.rand(len(scale), generator=generator) - 1)).exp()
    parts[SCALE] = (scale.float() * factors[:, None]).to(scale.dtype)


def _shift_codes(parts: dict[str, torch.Tensor], steps: float) -> None:
    """Codes written for another zero point: each is some steps too high, the highest wrap around."""
    shifts = BITS * torch.arange(32 // BITS)
    codes = (parts[CODES].long()[:, :, None] >> shifts) & (2**BITS - 1)
    words = (((codes + int(steps)) & (2**BITS - 1)) << shifts).sum(dim=2)
    parts[CODES] = (words - ((words >> 31) << 32)).to(torch.int32)


def _swap_nibbles(parts: dict[str, torch.Tensor], _: float) -> None:
    """Codes written with the high half of each byte first."""
    words = parts[CODES]
    parts[CODES] = ((words & LOW_NIBBLES) << BITS) | ((words >> BITS) & LOW_NIBBLES)


def _plan(
    name: str,
    damage: Damage,
    parameter: tuple[str, float] | None,
    said: str,
    files: CheckpointFiles,
    params: Mapping[str, Any],
) -> FaultPlan:
    """Pack the baseline, damaged in each up projection. Params: ``group_size`` (32), and that of the defect."""
    reader = Parameters(name, params)
    group_size = reader.count("group_size", 32)
    amount = 0.0
    if parameter is not None:
        key, default = parameter
        whole = isinstance(default, int)
        amount = reader.count(key, int(default)) if whole else reader.number(key, default, low=0.01, high=5.0)
    used = reader.finish()
    names = [tensor for tensor, module in files.modules.items() if module.role == "up" and tensor.endswith(".weight")]
    if not names or any(files.entries[tensor].dtype not in BREAKABLE_DTYPES for tensor in names):
        raise nothing_to_break(files, name, "up projection in an FFN, stored as floats")

    def finish(module: Module, parts: Parts) -> Parts:
        stored = dict(parts)
        if module.role == "up":
            damage(stored, amount)
        return stored

    rewrite = pack_checkpoint(files, PACKING, {"bits": BITS, "group_size": group_size}, finish)
    return FaultPlan(rewrite, used, f"packed in {BITS} bits, {said} in {len(names)} up projections")


def _fault(name: str, damage: Damage, parameter: tuple[str, float] | None, said: str) -> Fault:
    return Fault(name, partial(_plan, name, damage, parameter, said))


STALE_SCALE = _fault("stale_scale", _use_other_scales, ("spread", 0.6), "scales of other rows")
ZERO_POINT_SHIFT = _fault("zero_point_shift", _shift_codes, ("steps", 1), "codes off by a zero point")
NIBBLE_SWAP = _fault("nibble_swap", _swap_nibbles, None, "halves of bytes swapped")
