"""The rmt guard's measurement: how far the largest singular value of a layer's activations exceeds noise.

For noise of unit variance, shape (tokens, features), it is close to the Marchenko-Pastur edge, sqrt(tokens) +
sqrt(features). The edge risk is the ratio of the two, with each feature centred and scaled first.
Source: Marchenko and Pastur 1967; Bai and Yin 1993 for the largest value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from invarlock.documents.measurements import EdgeRiskRow
from invarlock.measuring import spectral

# The number of windows reduced at a time; about 200 MB of activations for a layer of a larger model.
CHUNK_WINDOWS = 8
# Experts with fewer tokens than this are not judged.
MIN_TOKENS = 32
# A constant feature is not scaled: it is zero after centring.
SMALLEST_DEVIATION = 1e-12
# Up to this number of features, A^T A is formed, which is faster than iterating on A.
TALL_FEATURES = 512
REPORT_WINDOWS = 8
PROBE_WINDOWS = 64

CONTRACT: Mapping[str, Any] = {
    "guard": "rmt",
    "reads": "outputs of linear layers; of experts for the tokens they are given",
    "standardised": "each feature, over the tokens of a chunk",
    "edge": "sqrt(tokens) + sqrt(features)",
    "estimator": "block power iteration on A^T A with Rayleigh-Ritz",
    "formed": f"A^T A, for up to {TALL_FEATURES} features and as many tokens",
    "seed": spectral.CONTRACT["seed"],
    "chunk_windows": CHUNK_WINDOWS,
    "min_tokens": MIN_TOKENS,
    "windows": {"report": REPORT_WINDOWS, "probe": PROBE_WINDOWS, "choice": "evenly spaced over the final windows"},
    "scope": ["attn", "ffn"],
}


@dataclass(frozen=True)
class EdgeRisk:
    """The edge risk of some tokens, None if there are too few or a value is not finite."""

    tokens: int
    features: int
    nonfinite: int
    value: float | None


def edge_risk(activations: torch.Tensor) -> EdgeRisk:
    """Return the edge risk of activations, shape (tokens, features), any float dtype."""
    rows = activations.float()
    tokens, features = rows.shape
    nonfinite = int(rows.numel() - int(rows.isfinite().sum()))
    if nonfinite or tokens < MIN_TOKENS:
        return EdgeRisk(tokens, features, nonfinite, None)
    centred = rows - rows.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    scaled = torch.where(deviation > SMALLEST_DEVIATION, centred / deviation, torch.zeros_like(centred))
    sigma = _sigma(scaled)
    assert sigma is not None
    return EdgeRisk(tokens, features, 0, sigma / (math.sqrt(tokens) + math.sqrt(features)))


def _sigma(scaled: torch.Tensor) -> float | None:
    tokens, features = scaled.shape
    if features <= min(tokens, TALL_FEATURES):
        return spectral.stored(spectral.tall_sigma(scaled))
    return spectral.measure_spectra(scaled[None])[0].sigma


def join(chunks: list[EdgeRisk]) -> EdgeRiskRow:
    """Return the report's row of a layer: the edge risks of its chunks, weighted by tokens."""
    measured = [chunk for chunk in chunks if chunk.value is not None]
    tokens = sum(chunk.tokens for chunk in measured)
    value = math.fsum(chunk.tokens * (chunk.value or 0.0) for chunk in measured) / tokens if tokens else None
    return {
        "tokens": sum(chunk.tokens for chunk in chunks),
        "features": chunks[0].features,
        "nonfinite": sum(chunk.nonfinite for chunk in chunks),
        "edge_risk": None if value is None else float(f"{value:.{spectral.DIGITS}g}"),
    }
