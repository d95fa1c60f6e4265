"""The second symmetry: an orthogonal rotation of the residual stream (QuaRot, SpinQuant).

x becomes x Q: the embeddings E become E Q, a matrix W that reads the stream becomes W Q, and a matrix W that writes to
it becomes Qᵀ W. With all norms folded, RMSNorm commutes with Q, and LayerNorm does if Q keeps the mean. Q is found by
Procrustes analysis of the embeddings (Schönemann 1966).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from invarlock.checkpoints.equivalence.anatomy import Anatomy, Site
from invarlock.checkpoints.equivalence.sides import BIAS, Sides, energy
from invarlock.checkpoints.equivalence.steps import Rotate, Step

# Embeddings with a smaller relative difference are not rotated: 4-bit rounding changes them by at most 0.15.
SAME = 0.3
# The most that may be left after the rotation, relative to the embeddings, and relative to the difference before it.
MOST_LEFT = 0.4
MOST_LEFT_OF_CHANGE = 0.5
# A rotation keeps the mean if it maps the vector of ones to itself, with this tolerance.
KEEPS_MEAN = 0.01
# The number of embedding rows processed together.
SLICE_ROWS = 8192


Pairs = Iterable[tuple[torch.Tensor, torch.Tensor]]


def undo_rotation(sides: Sides, anatomy: Anatomy) -> Sides:
    """Return both sides with the subject's residual stream rotated back; unchanged if it is not rotated.

    Args:
        sides: both sides with all norms folded.
        anatomy: the baseline's anatomy.
    """
    if not sides.has(*anatomy.embeddings):
        return sides
    if sides.same(anatomy.tokens):
        return sides

    def slices() -> Pairs:
        return sides.slices(anatomy.tokens, SLICE_ROWS)

    scale = math.sqrt(sum(energy(base) for base, _ in slices()))
    change = math.sqrt(sum(energy(own - base) for base, own in slices())) / scale if scale > 0 else 0.0
    if change < SAME:
        return sides
    rotation = find_rotation(slices())
    left = math.sqrt(sum(energy(own @ rotation - base) for base, own in slices())) / scale
    if left > MOST_LEFT or left > MOST_LEFT_OF_CHANGE * change:
        return sides
    if anatomy.fixed is not None:
        return sides.skip("rotation", anatomy.fixed)
    ones = torch.ones(len(rotation))
    if anatomy.subtracts_mean and float((rotation.mT @ ones - ones).abs().max()) > KEEPS_MEAN:
        return sides.skip("rotation", "the norms subtract the mean, which the rotation does not keep")
    reads, writes = Rotate("inputs", rotation), Rotate("outputs", rotation)
    steps: dict[Site, tuple[Step, ...]] = dict.fromkeys((*anatomy.embeddings, *anatomy.readers), (reads,))
    if anatomy.head is not None:
        steps[anatomy.head] = (reads,)
    steps |= dict.fromkeys(anatomy.writers, (writes,))
    if not sides.biases_follow(dict.fromkeys(anatomy.writers, (writes,))):
        return sides.skip("rotation", BIAS)
    return sides.with_steps(steps).remove("rotation", [site.label for site in steps], change)


def find_rotation(pairs: Pairs) -> torch.Tensor:
    """Return the orthogonal Q for which own Q is nearest to base, float32, shape (features, features).

    Args:
        pairs: the rows of base and own, in slices.
    """
    product = sum((own.double().mT @ base.double() for base, own in pairs), torch.zeros((), dtype=torch.float64))
    left, _, right = torch.linalg.svd(product)
    rotation: torch.Tensor = left @ right
    return rotation.float()
