"""The edits: one module per edit, with its parameters, its arithmetic on a matrix (out, in) and its names."""

from __future__ import annotations

from invarlock.edits.edit import Edit
from invarlock.edits.fp8_quant import FP8_QUANT
from invarlock.edits.lowrank_svd import LOWRANK_SVD
from invarlock.edits.magnitude_prune import MAGNITUDE_PRUNE
from invarlock.edits.noop import NOOP
from invarlock.edits.packed_rtn import PACKED_RTN
from invarlock.edits.quant_rtn import QUANT_RTN
from invarlock.edits.rotated_rtn import ROTATED_RTN
from invarlock.edits.smoothed_rtn import SMOOTHED_RTN

# A new edit is one module and one line here.
EDITS: tuple[Edit, ...] = (
    NOOP,
    QUANT_RTN,
    FP8_QUANT,
    MAGNITUDE_PRUNE,
    LOWRANK_SVD,
    SMOOTHED_RTN,
    ROTATED_RTN,
    PACKED_RTN,
)
BY_NAME = {edit.name: edit for edit in EDITS}
