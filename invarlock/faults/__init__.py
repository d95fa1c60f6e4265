"""The faults: deliberate defects in a copy of a checkpoint, to test whether they are detected."""

from __future__ import annotations

from invarlock.faults.fault import Fault
from invarlock.faults.numeric import (
    EXTREME_QUANT,
    INF_INJECTION,
    NAN_INJECTION,
    NORM_COLLAPSE,
    RANK_COLLAPSE,
    SCALE_EXPLOSION,
)
from invarlock.faults.packed import NIBBLE_SWAP, STALE_SCALE, ZERO_POINT_SHIFT
from invarlock.faults.structural import MISSING_TENSORS, SHAPE_MISMATCH, WEIGHT_TYING_BREAK
from invarlock.faults.subtle import (
    RMT_NORM_NOISE,
    RMT_NORM_NOISE_STRONG,
    SPECTRAL_MODERATE_SCALE,
    SPECTRAL_MODERATE_SCALE_MLP,
    VE_MLP_SCALE_SKEW,
)

# A new fault is one module and one line here.
FAULTS: tuple[Fault, ...] = (
    NAN_INJECTION,
    INF_INJECTION,
    SHAPE_MISMATCH,
    MISSING_TENSORS,
    EXTREME_QUANT,
    SCALE_EXPLOSION,
    RANK_COLLAPSE,
    NORM_COLLAPSE,
    WEIGHT_TYING_BREAK,
    RMT_NORM_NOISE,
    RMT_NORM_NOISE_STRONG,
    SPECTRAL_MODERATE_SCALE,
    SPECTRAL_MODERATE_SCALE_MLP,
    VE_MLP_SCALE_SKEW,
    STALE_SCALE,
    ZERO_POINT_SHIFT,
    NIBBLE_SWAP,
)
BY_NAME = {fault.name: fault for fault in FAULTS}
