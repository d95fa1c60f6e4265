"""Measures the composition of the change of a weight matrix, for the spectral guard.

Compression changes weights like noise: each element a little, in no common direction. A defect changes them together.
With the baseline's matrix B, the subject's matrix S and D = S - B, three numbers distinguish the two for any size of D:

- coherent: the share of |D|^2 that scaling the matrix's own weights explains, group by group along the input;
- flipped: the share of |D|^2 in large weights whose sign changed;
- edge risk: D's largest singular value over the Marchenko-Pastur edge sqrt(rows) + sqrt(columns), after its rows and
  columns are scaled to equal RMS. It is near 1 for noise, and far above 1 for a change along one direction.

All matrices have the shape (out, in).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from invarlock.digests import short_digest
from invarlock.measuring.spectral import batch_size, measure_spectra, row_slices, stored

# Most group-wise formats have one scale for this many weights, or for a multiple of it.
GROUP = 32
# A weight counts as large from half the RMS of its matrix; rounding flips the sign of no such weight.
LARGE = 0.5
# The number of elements processed together, in whole rows: 2 MB of float64, which fit in the cache.
SLICE_ELEMENTS = 1 << 18

CONTRACT: Mapping[str, Any] = {
    "of": "matrices of one shape whose bytes differ from the baseline's",
    "relative": "|D| / |B|",
    "coherent": "sum over groups of min(<D,B>^2 / <B,B>, <D,S>^2 / <S,S>) where both have one sign, over |D|^2",
    "group": GROUP,
    "flipped": "sum of D^2 where the sign changed and both magnitudes reach `large` of B's RMS, over |D|^2",
    "large": LARGE,
    "edge_risk": "sigma(D) / (sqrt(rows) + sqrt(columns)), rows of D brought to RMS 1, then columns",
    "unit_order": "digest of the order of hidden units, where an FFN matrix is the baseline's in another order",
    "arithmetic": "float64, sigma float32",
}


@dataclass(frozen=True)
class WeightChange:
    """The composition of a change; values are None if a side is not finite, ``relative`` also if the baseline is 0."""

    relative: float | None
    coherent: float | None
    flipped: float | None
    edge_risk: float | None


def measure_changes(before: torch.Tensor, after: torch.Tensor) -> list[WeightChange]:
    """Return the composition of the change of each matrix of a batch.

    Args:
        before: the baseline's matrices, shape (batch, out, in), any float dtype.
        after: the subject's matrices, same shape.
    """
    if before.is_cuda:
        return _measure_together(before, after)
    parts = zip(*(torch.split(side, batch_size(before)) for side in (before, after)), strict=True)
    return [one for base, own in parts for one in _measure_together(base, own)]


def _measure_together(before: torch.Tensor, after: torch.Tensor) -> list[WeightChange]:
    _, rows, columns = before.shape
    parts = torch.stack([_sums(*part) for part in _slices(before, after)])  # (slice, 5, batch)
    (base, own, change, coherent), largest = parts[:, :4].sum(dim=0), parts[:, 4].amax(dim=0)
    flipped = torch.zeros_like(base)
    large = LARGE * (base / (rows * columns)).sqrt()
    # a large weight whose sign changed has moved by at least twice `large`; 3.99 instead of 4 allows for rounding
    if bool((largest >= 3.99 * large.square()).any()):
        large = large[:, None, None]
        for was, now in _slices(before, after):
            is_flip = (was * now < 0) & (was.abs() >= large) & (now.abs() >= large)
            flipped += torch.where(is_flip, (now - was).square_(), 0.0).sum(dim=(1, 2))
    edges = [spectrum.sigma for spectrum in measure_spectra(_one_rms(_difference(before, after)))]
    edge = math.sqrt(rows) + math.sqrt(columns)
    # squares of float32 numbers do not overflow in float64
    finite = (base + own).isfinite()
    found = zip(*(one.tolist() for one in (finite, base, change, coherent, flipped)), edges, strict=True)
    return [
        WeightChange(
            stored(math.sqrt(total / before)) if before > 0 else None,
            stored(scaled / total) if total > 0 else 0.0,
            stored(flips / total) if total > 0 else 0.0,
            None if sigma is None else stored(sigma / edge),
        )
        if ok
        else WeightChange(None, None, None, None)
        for ok, before, total, scaled, flips, sigma in found
    ]


def unit_order(before: torch.Tensor, after: torch.Tensor) -> str | None:
    """Return the digest of the order in which ``after`` has the rows of ``before``; None if the rows differ.

    Rows are compared byte by byte; equal rows keep their order.
    """
    was, now = _row_bytes(before), _row_bytes(after)
    places: dict[bytes, list[int]] = {}
    for place in range(len(was) - 1, -1, -1):
        places.setdefault(was[place], []).append(place)
    order = [places[row].pop() if places.get(row) else -1 for row in now]
    if -1 in order or len(was) != len(now):
        return None
    return short_digest(torch.tensor(order).numpy().astype("<i8").tobytes())


def _row_bytes(matrix: torch.Tensor) -> list[bytes]:
    data = matrix.contiguous().view(torch.uint8).numpy()
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in data]


def _slices(before: torch.Tensor, after: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield both sides in float64, a few rows at a time."""
    step = max(1, SLICE_ELEMENTS // (before.shape[0] * before.shape[2]))
    for first in range(0, before.shape[1], step):
        part = slice(first, first + step)
        yield before[:, part].float().double(), after[:, part].float().double()


def _sums(base: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return five sums over some rows of each matrix of a batch, shape (5, batch).

    These are the sums of squares of the baseline, the subject and the change; the part of the change that scaling each
    group's own weights explains; and, as the fifth, the largest square of a change.

    A projection (pruning, truncated rank) is orthogonal to the subject, and noise to both sides; a scale to neither.
    """
    short = -base.shape[2] % GROUP
    if short:
        base, own = (torch.nn.functional.pad(side, (0, short)) for side in (base, own))
    change = own - base
    product = torch.empty(base.shape, dtype=base.dtype, device=base.device)  # contiguous even if the sides are not
    of_base, of_own, along_base, along_own, of_change = (
        _by_group(torch.mul(one, other, out=product))
        for one, other in ((base, base), (own, own), (change, base), (change, own), (change, change))
    )
    largest = product.amax(dim=(1, 2))
    tiny = torch.finfo(torch.float64).tiny
    along = (along_base.square() / of_base.clamp_min(tiny), along_own.square() / of_own.clamp_min(tiny))
    coherent = torch.where(along_base * along_own > 0, torch.minimum(*along), 0.0)
    return torch.stack([*(one.sum(dim=1) for one in (of_base, of_own, of_change, coherent)), largest])


def _by_group(products: torch.Tensor) -> torch.Tensor:
    """Return sums over groups within each row, shape (batch, groups), of products (batch, rows, columns)."""
    ones = torch.ones(GROUP, dtype=products.dtype, device=products.device)
    return torch.mv(products.view(-1, GROUP), ones).view(len(products), -1)


def _difference(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the change of each matrix as float32, without a float32 copy of either side."""
    change = torch.empty_like(before, dtype=torch.float32)
    for base, own, rows in zip(*(row_slices(one) for one in (before, after, change)), strict=True):
        torch.sub(own.float(), base.float(), out=rows)
    return change


def _one_rms(change: torch.Tensor) -> torch.Tensor:
    """Scale the rows of a change to an RMS of 1 (except zero rows), then its columns, in place; return the change."""
    tiny = torch.finfo(torch.float32).tiny
    for dim in (2, 1):
        # divide by the largest value first, so that squares of a tiny change do not underflow
        change /= _largest(change, dim).clamp_min_(tiny)
        rms = torch.linalg.vector_norm(change, dim=dim, keepdim=True) / math.sqrt(change.shape[dim])
        change /= rms.clamp_min_(tiny)
    return change


def _largest(change: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the largest magnitude along the rows or the columns, the dimension kept."""
    if dim == 2:
        return torch.cat([rows.abs().amax(dim=2, keepdim=True) for rows in row_slices(change)], dim=1)
    parts = [rows.abs().amax(dim=1, keepdim=True) for rows in row_slices(change)]
    return torch.stack(parts).amax(dim=0)
