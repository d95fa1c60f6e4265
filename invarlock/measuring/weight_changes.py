"""The spectral guard's second measurement: the composition of the change of a weight matrix.

Compression changes weights like noise: each element a little, in no common direction. A defect changes them together.
With the baseline's matrix B, the subject's S and D = S - B, three shares distinguish the two for any size of D:

- coherent: how much of |D|^2 is a scale of the matrix's own weights, group by group along the input;
- flipped: how much of |D|^2 lies in large weights whose sign changed;
- edge risk: D's largest singular value over the Marchenko-Pastur edge sqrt(rows) + sqrt(columns), once its rows and
  columns have one RMS. Noise is near 1, a change along one direction far beyond.

Matrices are out x in throughout.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from invarlock.digests import short_digest
from invarlock.measuring.spectral import measure_spectra, stored, zero_unless

# Weights that share a scale in most group-wise formats; a longer group is several of these.
GROUP = 32
# A weight is large from half the RMS of its matrix: rounding flips none of those.
LARGE = 0.5
# Rows are worked on together up to so many elements: 2 MB of float64, which stay in the cache.
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
    """The composition of a change; None if a side is not finite, and for ``relative`` if the baseline is zero."""

    relative: float | None
    coherent: float | None
    flipped: float | None
    edge_risk: float | None


def measure_changes(before: torch.Tensor, after: torch.Tensor) -> list[WeightChange]:
    """Return the composition of the change of each matrix of a batch.

    Args:
        before: the baseline's, shape (batch, out, in), any float dtype.
        after: the subject's, same shape.
    """
    before, after = before.float(), after.float()
    pairs = zip(before, after, strict=True)
    finite = torch.stack([base.isfinite().all() & own.isfinite().all() for base, own in pairs])
    before, after = zero_unless(finite, before), zero_unless(finite, after)
    _, rows, columns = before.shape
    energy = _zeros(before)
    for base, _ in _slices(before, after):
        energy += base.square().sum(dim=(1, 2))
    large = LARGE * (energy / (rows * columns)).sqrt()[:, None, None]
    changed, coherent, flipped = _zeros(before), _zeros(before), _zeros(before)
    for base, own in _slices(before, after):
        change = own - base
        changed += change.square().sum(dim=(1, 2))
        coherent += _explained_by_scales(change, base, own).sum(dim=(1, 2))
        is_flip = (base * own < 0) & (base.abs() >= large) & (own.abs() >= large)
        flipped += torch.where(is_flip, change.square(), 0.0).sum(dim=(1, 2))
    edges = [spectrum.sigma for spectrum in measure_spectra(_one_rms(after - before))]
    edge = math.sqrt(rows) + math.sqrt(columns)
    found = zip(
        finite.tolist(), energy.tolist(), changed.tolist(), coherent.tolist(), flipped.tolist(), edges, strict=True
    )
    return [
        WeightChange(
            stored(math.sqrt(total / base)) if base > 0 else None,
            stored(scaled / total) if total > 0 else 0.0,
            stored(flips / total) if total > 0 else 0.0,
            None if sigma is None else stored(sigma / edge),
        )
        if ok
        else WeightChange(None, None, None, None)
        for ok, base, total, scaled, flips, sigma in found
    ]


def unit_order(before: torch.Tensor, after: torch.Tensor) -> str | None:
    """Return the digest of the order in which ``after`` has the rows of ``before``; None if the rows differ.

    Rows are compared byte by byte, those that are equal keep their order.
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


def _zeros(batch: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(batch), dtype=torch.float64, device=batch.device)


def _slices(before: torch.Tensor, after: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield both sides in float64, some rows at a time."""
    step = max(1, SLICE_ELEMENTS // (before.shape[0] * before.shape[2]))
    for first in range(0, before.shape[1], step):
        yield before[:, first : first + step].double(), after[:, first : first + step].double()


def _explained_by_scales(change: torch.Tensor, base: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return how much of each group's squared change a scale of its own weights explains, (batch, rows, groups).

    A projection (pruning, truncated rank) is orthogonal to the subject and noise to both sides; a scale to neither.
    """
    grouped = [torch.nn.functional.pad(side, (0, -side.shape[2] % GROUP)) for side in (change, base, own)]
    change, base, own = (side.reshape(*side.shape[:2], -1, GROUP) for side in grouped)
    along_base, along_own = (change * base).sum(dim=3), (change * own).sum(dim=3)
    tiny = torch.finfo(torch.float64).tiny
    explained = torch.minimum(
        along_base.square() / base.square().sum(dim=3).clamp_min(tiny),
        along_own.square() / own.square().sum(dim=3).clamp_min(tiny),
    )
    return torch.where(along_base * along_own > 0, explained, 0.0)


def _one_rms(change: torch.Tensor) -> torch.Tensor:
    """Return a change whose rows were brought to an RMS of 1 (those of zeros aside), and then its columns."""
    tiny = torch.finfo(torch.float32).tiny
    for dim in (2, 1):
        # by the largest first, so that no square of a tiny change is lost
        change = change / change.abs().amax(dim=dim, keepdim=True).clamp_min(tiny)
        rms = torch.linalg.vector_norm(change, dim=dim, keepdim=True) / math.sqrt(change.shape[dim])
        change = change / rms.clamp_min(tiny)
    return change
