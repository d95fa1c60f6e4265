"""The spectral guard's measurement: largest singular value and Frobenius norm of weight matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

BLOCK = 8
# A matrix is looked at after so many iterations, and is done once its residual is small enough.
CHECKPOINTS = (4, 8, 16, 32, 64, 128)
# The residual bounds the relative error of sigma squared, so sigma is within half of it.
TOLERANCE = 1e-4
SEED = 0x5BEC
# Stored digits: more than float32 resolves, fewer than would make a report long.
DIGITS = 9

CONTRACT: Mapping[str, Any] = {
    "guard": "spectral",
    "estimator": "block power iteration on W^T W with Rayleigh-Ritz",
    "block": BLOCK,
    "iterations": CHECKPOINTS[-1],
    "tolerance": TOLERANCE,
    "seed": SEED,
    "arithmetic": "float32",
    "scope": ["attn", "embed", "ffn", "router"],
}


@dataclass(frozen=True)
class Spectrum:
    """Largest singular value, its residual and the Frobenius norm; None where not finite."""

    sigma: float | None
    residual: float | None
    frobenius: float | None


def measure_spectra(matrices: torch.Tensor) -> list[Spectrum]:
    """Return the spectrum of each matrix of a batch.

    Block power iteration from a fixed start, then Rayleigh-Ritz on the block (Saad 2011, "Numerical Methods for Large
    Eigenvalue Problems", chapter 5). The residual is |W^T W v - sigma^2 v| / sigma^2.

    Args:
        matrices: shape (batch, rows, columns), any float dtype.
    """
    weights = matrices.float()
    finite = weights.isfinite().flatten(1).all(dim=1)
    safe = torch.where(finite[:, None, None], weights, torch.zeros_like(weights))
    # float64 accumulates squares without overflow: float32 weights of 1e25 have a norm too
    frobenius = safe.double().square().sum(dim=(1, 2)).sqrt()
    scale = safe.abs().amax(dim=(1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    sigma, residual = _largest_singular_value(safe / scale[:, None, None])
    sigma = sigma.double() * scale.double()
    return [
        Spectrum(stored(s), stored(r), stored(f)) if ok else Spectrum(None, None, None)
        for s, r, f, ok in zip(sigma.tolist(), residual.tolist(), frobenius.tolist(), finite.tolist(), strict=True)
    ]


def tall_sigma(rows: torch.Tensor) -> float:
    """Return the largest singular value of one finite matrix, by the same iteration on its W^T W, formed once.

    Many rows and few columns (activations) are iterated on some times faster so. Forming the product in float32 moves
    sigma by some 1e-7, far below the tolerance.

    Args:
        rows: shape (rows, columns), float32.
    """
    product = rows.mT @ rows
    columns = len(product)
    start = torch.randn(columns, min(BLOCK, columns), generator=torch.Generator().manual_seed(SEED))
    basis = torch.linalg.qr(start).Q.to(rows.device)
    square = torch.zeros((), device=rows.device)
    for iteration in range(1, CHECKPOINTS[-1] + 1):
        basis = torch.linalg.qr(product @ basis).Q
        if iteration not in CHECKPOINTS:
            continue
        values, vectors = torch.linalg.eigh(basis.mT @ (product @ basis))
        square, vector = values[-1], basis @ vectors[:, -1]
        error = torch.linalg.vector_norm(product @ vector - square * vector)
        if not bool(error > TOLERANCE * square):
            break
    return math.sqrt(max(0.0, float(square)))


def _largest_singular_value(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sigma and residual, shape (batch,) each, of weights whose largest magnitude is 1 or 0.

    Each matrix keeps what it had when it first converged, so that its neighbours in the batch do not matter.
    """
    columns = weights.shape[2]
    width = min(BLOCK, *weights.shape[1:])
    start = torch.randn(columns, width, generator=torch.Generator().manual_seed(SEED))
    basis = torch.linalg.qr(start).Q.to(weights.device).expand(len(weights), -1, -1)  # (batch, columns, width)
    sigma = torch.zeros(len(weights), device=weights.device)
    residual = torch.full_like(sigma, math.inf)
    for iteration in range(1, CHECKPOINTS[-1] + 1):
        basis = torch.linalg.qr(weights.mT @ (weights @ basis)).Q
        if iteration not in CHECKPOINTS:
            continue
        open_ = residual > TOLERANCE
        now, error = _rayleigh_ritz(weights, basis)
        sigma, residual = torch.where(open_, now, sigma), torch.where(open_, error, residual)
        if not bool((residual > TOLERANCE).any()):
            break
    return sigma, residual


def _rayleigh_ritz(weights: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest singular value within a basis and its residual, 0 where it is zero."""
    _, values, rights = torch.linalg.svd(weights @ basis, full_matrices=False)
    sigma = values[:, 0]
    vector = basis @ rights[:, :1].mT  # (batch, columns, 1)
    square = sigma.square()[:, None, None]
    error = torch.linalg.vector_norm(weights.mT @ (weights @ vector) - square * vector, dim=(1, 2))
    return sigma, torch.where(sigma > 0, error / sigma.square(), torch.zeros_like(error))


def stored(value: float) -> float | None:
    """Return a measured number with as many digits as a report keeps; None where it is not finite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
