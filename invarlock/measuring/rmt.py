"""Measures for the rmt guard how far the largest singular value of a layer's activations exceeds that of noise.

For noise of unit variance, shape (tokens, features), the largest singular value is close to the Marchenko-Pastur edge,
sqrt(tokens) + sqrt(features). The edge risk is their ratio, after each feature is centred and scaled.
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

# The number of windows measured together: about 200 MB of activations for a layer of a large model.
CHUNK_WINDOWS = 8
# Experts with fewer tokens than this are not judged.
MIN_TOKENS = 32
# A feature counts as constant and becomes zero if its deviation is below the first value, or below the second value
# times its mean: a deviation as small as that may be the rounding error of the mean.
SMALLEST_DEVIATION = 1e-12
SMALLEST_SHARE = 1e-6
# If the smaller side is at most this long, all eigenvalues of its Gram matrix take less time than an iteration.
GRAM_SIDE = 128
REPORT_WINDOWS = 8
PROBE_WINDOWS = 64

CONTRACT: Mapping[str, Any] = {
    "guard": "rmt",
    "reads": "outputs of linear layers; of experts for the tokens they are given",
    "standardised": "each feature, over the tokens of a chunk",
    "edge": "sqrt(tokens) + sqrt(features)",
    "constant": {"deviation": SMALLEST_DEVIATION, "share_of_mean": SMALLEST_SHARE},
    "exact": f"the largest eigenvalue of the smaller of A^T A and A A^T, for up to {GRAM_SIDE} rows",
    "estimator": "as of weights, for more",
    **{key: spectral.CONTRACT[key] for key in ("block", "iterations", "tolerance", "seed")},
    "chunk_windows": CHUNK_WINDOWS,
    "min_tokens": MIN_TOKENS,
    "windows": {"report": REPORT_WINDOWS, "probe": PROBE_WINDOWS, "choice": "the first of the final windows"},
    "scope": ["attn", "ffn"],
    "judged": "what more than half of a family's layers moved by, and each layer",
}


@dataclass(frozen=True)
class EdgeRisk:
    """The edge risk of some tokens; None if there are too few or a value is not finite."""

    tokens: int
    features: int
    nonfinite: int
    value: float | None


def edge_risk(activations: torch.Tensor) -> EdgeRisk:
    """Return the edge risk of activations, shape (tokens, features), any float dtype."""
    rows = activations.float()
    tokens, features = rows.shape
    if tokens < MIN_TOKENS:
        return EdgeRisk(tokens, features, _nonfinite(rows), None)
    scaled = _standardised(rows)
    if scaled is None:
        nonfinite = _nonfinite(rows)
        if nonfinite:
            return EdgeRisk(tokens, features, nonfinite, None)
        # the values are finite, but a square or a sum overflowed
        scaled = _standardised(rows / rows.abs().amax(dim=0).clamp_min(1))
        assert scaled is not None
    return EdgeRisk(tokens, features, 0, _sigma(scaled) / (math.sqrt(tokens) + math.sqrt(features)))


def _nonfinite(rows: torch.Tensor) -> int:
    return int(rows.numel() - int(rows.isfinite().sum()))


def _standardised(rows: torch.Tensor) -> torch.Tensor | None:
    """Return the features centred and scaled to a deviation of one; None if a value or a sum is not finite."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    deviation = centred.square().mean(dim=0).sqrt()
    # one non-finite value makes the sum of its feature non-finite, so individual values need no test
    if not bool((mean + deviation).isfinite().all()):
        return None
    varies = (deviation > SMALLEST_DEVIATION) & (deviation > SMALLEST_SHARE * mean.abs())
    return centred.mul_(torch.where(varies, deviation.reciprocal(), 0.0))


def _sigma(scaled: torch.Tensor) -> float:
    if min(scaled.shape) > GRAM_SIDE:
        return float(spectral.largest_singular_value(scaled[None])[0])
    gram = scaled.mT @ scaled if scaled.shape[0] >= scaled.shape[1] else scaled @ scaled.mT
    # LAPACK's float32 solver may not converge if most eigenvalues are zero except for rounding errors
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram.double())[-1])))


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
