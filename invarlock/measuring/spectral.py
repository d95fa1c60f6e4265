"""Measures largest singular value and Frobenius norm of weight matrices for the spectral guard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

BLOCK = 8
# Up to this number of columns the basis is complete, so the result is exact.
DIRECT = 64
# Convergence is checked after each block of this many iterations.
CHECKPOINTS = (2, 4, 6, 8, 12, 16, 20, 24, 32)
# The residual bounds the relative error of sigma squared, so sigma is within half of it.
TOLERANCE = 1e-4
SEED = 0x5BEC
# Matrices, or rows of one matrix, are processed together on a CPU up to 1 MB of float32, which fits in the cache.
PART_ELEMENTS = 1 << 18
# Stored digits: more than the precision of float32, without making reports long.
DIGITS = 9

CONTRACT: Mapping[str, Any] = {
    "guard": "spectral",
    "estimator": "block Lanczos on W^T W with full reorthogonalisation and Rayleigh-Ritz",
    "block": BLOCK,
    "direct": DIRECT,
    "iterations": CHECKPOINTS[-1],
    "tolerance": TOLERANCE,
    "seed": SEED,
    "arithmetic": "float32",
    "scope": ["attn", "embed", "ffn", "router"],
}


@dataclass(frozen=True)
class Spectrum:
    """Largest singular value, its residual and the Frobenius norm; None if not finite."""

    sigma: float | None
    residual: float | None
    frobenius: float | None


def measure_spectra(matrices: torch.Tensor) -> list[Spectrum]:
    """Return the spectrum of each matrix of a batch.

    The largest singular value comes from block Lanczos; its residual is |W^T W v - sigma^2 v| / sigma^2.

    Args:
        matrices: shape (batch, rows, columns), any float dtype.
    """
    if matrices.is_cuda:
        return _measure_together(matrices)
    # a few at a time, so that no matrix waits until all have converged, and their copies stay small
    return [one for part in torch.split(matrices, batch_size(matrices)) for one in _measure_together(part)]


def batch_size(matrices: torch.Tensor) -> int:
    """Return how many matrices of a batch, shape (batch, rows, columns), are processed together on a CPU."""
    return max(1, PART_ELEMENTS // max(1, matrices[0].numel()))


def row_slices(matrices: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield views of a batch, shape (batch, rows, columns), a few rows at a time; all rows at once on a GPU."""
    count, rows, columns = matrices.shape
    step = rows if matrices.is_cuda else max(1, PART_ELEMENTS // max(1, count * columns))
    return iter(torch.split(matrices, step, dim=1))


def _measure_together(matrices: torch.Tensor) -> list[Spectrum]:
    weights = matrices.float()
    energy, largest = torch.zeros(len(weights), dtype=torch.float64, device=weights.device), []
    for rows in row_slices(weights):
        # float64 accumulates squares without overflow, even for float32 weights of 1e25
        energy += rows.double().square_().sum(dim=(1, 2))
        largest.append(rows.abs().amax(dim=(1, 2)))
    finite = energy.isfinite()
    scale = torch.stack(largest).amax(dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    if not bool(finite.all()):
        weights = torch.where(finite[:, None, None], weights, 0.0)
        scale, energy = torch.where(finite, scale, 1.0), torch.where(finite, energy, 0.0)
    # reuses a copy if there is one
    scaled = torch.div(weights, scale[:, None, None], out=None if weights is matrices else weights)
    sigma, residual = largest_singular_value(scaled)
    sigma = sigma.double() * scale.double()
    return [
        Spectrum(stored(s), stored(r), stored(f)) if ok else Spectrum(None, None, None)
        for s, r, f, ok in zip(sigma.tolist(), residual.tolist(), energy.sqrt().tolist(), finite.tolist(), strict=True)
    ]


def largest_singular_value(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sigma and residual, shape (batch,) each, of finite matrices whose squares do not overflow."""
    # the side with fewer elements gives the smaller basis; the singular values are the same
    tall = weights if weights.shape[1] >= weights.shape[2] else weights.mT
    square, residual = _largest_eigenvalue(lambda block: (block @ tall.mT) @ tall, tall)
    return square.sqrt(), residual


def _largest_eigenvalue(
    apply: Callable[[torch.Tensor], torch.Tensor], matrices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest eigenvalue and its residual, shape (batch,) each, of symmetric semidefinite matrices.

    Block Lanczos from a fixed start with full reorthogonalisation, and Rayleigh-Ritz on all of its basis (Golub and
    Van Loan 2013, "Matrix Computations", 10.3.6). It needs a quarter to a fifth of the products of a power iteration
    if the largest values are close together, as in noise. Each matrix keeps its result from its first convergence, so
    that it does not depend on the other matrices of the batch.

    The vectors of a block are rows: a product of a few rows and a large matrix takes a CPU's BLAS a quarter of the
    time of the same product with columns.

    Args:
        apply: multiplies each matrix by a block, shape (batch, width, columns).
        matrices: a tensor with the batch, columns and device of the matrices.
    """
    count, columns = len(matrices), matrices.shape[2]
    width = columns if columns <= DIRECT else BLOCK
    most = min(CHECKPOINTS[-1], columns // width)
    start = torch.randn(columns, width, generator=torch.Generator().manual_seed(SEED))
    block = _orthonormal(start.mT).to(matrices.device).expand(count, -1, -1)
    basis, images = block, apply(block)  # (batch, width x iteration, columns) from here on
    value = torch.zeros(count, device=matrices.device)
    residual = torch.full_like(value, math.inf)
    for iteration in range(1, most + 1):
        if iteration in CHECKPOINTS or iteration == most:
            open_ = residual > TOLERANCE
            now, error = _rayleigh_ritz(basis, images)
            value, residual = torch.where(open_, now, value), torch.where(open_, error, residual)
            if iteration == most or not bool((residual > TOLERANCE).any()):
                break
        block = images[:, -width:]
        for _ in range(2):  # the second pass removes the rounding error of the first
            block = _orthonormal(block - (block @ basis.mT) @ basis)
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, apply(block)], dim=1)
    return value, residual


def _orthonormal(rows: torch.Tensor) -> torch.Tensor:
    columns: torch.Tensor = torch.linalg.qr(rows.mT).Q
    return columns.mT


def _rayleigh_ritz(basis: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest eigenvalue within a basis and its relative residual, which is 0 if the eigenvalue is 0."""
    projected = basis @ images.mT
    values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
    value, weights = values[:, -1].clamp_min(0), vectors[:, :, -1:].mT
    error = torch.linalg.vector_norm(weights @ images - value[:, None, None] * (weights @ basis), dim=(1, 2))
    return value, torch.where(value > 0, error / value, torch.zeros_like(error))


def stored(value: float) -> float | None:
    """Return a measured number with the digits stored in a report; None if it is not finite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
