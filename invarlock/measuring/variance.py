"""Measures for the variance guard the root mean square of the output that each FFN adds to its block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from invarlock.guards.variance import SCALED_PROBE_WINDOWS, SCALED_WINDOWS
from invarlock.measuring import rmt, spectral

CONTRACT: Mapping[str, Any] = {
    "guard": "variance",
    "reads": "outputs of FFN output projections; of experts their weighted sum",
    "measure": "root mean square over tokens and features, in float64",
    "windows": rmt.CONTRACT["windows"],
    "scaled_windows": {
        "report": SCALED_WINDOWS,
        "probe": SCALED_PROBE_WINDOWS,
        "choice": "the first final windows of the first slice",
    },
}


def sum_of_squares(outputs: torch.Tensor) -> tuple[float, int]:
    """Return the sum of squares of outputs (NaN if one is not finite), and the number of outputs."""
    return float(outputs.double().square().sum()), outputs.numel()


def root_mean_square(total: float, count: int) -> float | None:
    """Return sqrt(total / count); None if it is not finite."""
    value = math.sqrt(total / count) if count and math.isfinite(total) else math.nan
    return float(f"{value:.{spectral.DIGITS}g}") if math.isfinite(value) else None
