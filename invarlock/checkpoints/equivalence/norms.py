"""The first symmetry: the weight of a norm may be multiplied into the matrices that read it.

RMSNorm gives x̂ · n, and a matrix reads W (n ∘ x̂) = (W diag n) x̂. LayerNorm's bias is moved into the matrices'
biases. Quantisers fold all of n into W before they rotate; AWQ and SmoothQuant fold a part of it (Lin et al. 2023, Xiao
et al. 2022). In the canonical form, n = 1 on both sides.
"""

from __future__ import annotations

import torch

from invarlock.checkpoints.equivalence.anatomy import Anatomy, Norm, Site
from invarlock.checkpoints.equivalence.sides import Sides
from invarlock.checkpoints.equivalence.steps import Scale

# Folding a norm helps if it leaves at most this share of the squared difference of the columns' lengths.
MOST_LEFT = 0.5
# All norms are folded if this helps at least this share of those that differ. A norm that it does not help is a defect,
# which must stay visible.
LEAST_HELPED = 0.5


def fold(sides: Sides, anatomy: Anatomy) -> Sides:
    """Return both sides with every norm folded into its readers."""
    own: dict[Site, tuple[Scale, ...]] = {}
    base: dict[Site, tuple[Scale, ...]] = {}
    for norm in _shared(sides, anatomy):
        before, after = _factors(sides, norm)
        for site in norm.readers:
            base[site], own[site] = (Scale("inputs", before),), (Scale("inputs", after),)
    return sides.with_steps(own, base)


def largest_change(sides: Sides, anatomy: Anatomy) -> tuple[tuple[str, ...], float]:
    """Return the norms that differ, and the largest factor by which a channel differs."""
    names, largest = [], 1.0
    for norm in _shared(sides, anatomy):
        before, after = _factors(sides, norm)
        ratio = (after / before).abs()
        ratio = ratio[ratio.isfinite() & (ratio > 0)]
        if not torch.equal(before, after) and len(ratio):
            names.append(norm.weight)
            largest = max(largest, float(ratio.max()), float(1 / ratio.min()))
    return tuple(names), largest


def are_folded(sides: Sides, anatomy: Anatomy) -> bool:
    """Return whether, for most norms that differ, the columns of their readers have the inverse difference.

    Only the lengths of columns are compared: no order, overall scale or rotation of the outputs changes them much.
    """
    helped: list[bool] = []
    for norm in _shared(sides, anatomy):
        before, after = _factors(sides, norm)
        if torch.equal(before, after):
            continue
        stored = folded = 0.0
        for site in norm.readers:
            base, own = (torch.linalg.vector_norm(side, dim=0) for side in sides.pair(site))
            stored += _relative(base, own)
            folded += _relative(base * before.abs(), own * after.abs())
        helped.append(folded < MOST_LEFT * stored)
    return bool(helped) and sum(helped) >= LEAST_HELPED * len(helped)


def _relative(base: torch.Tensor, own: torch.Tensor) -> float:
    total = float(base.double().square().sum())
    return float((own - base).double().square().sum()) / total if total > 0 else 0.0


def _shared(sides: Sides, anatomy: Anatomy) -> list[Norm]:
    return [norm for norm in anatomy.norms if sides.has(Site(norm.weight), *norm.readers)]


def _factors(sides: Sides, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
    before, after = sides.vector(norm.weight)
    return torch.nan_to_num(before + norm.offset), torch.nan_to_num(after + norm.offset)
