"""Finds the transformations between a subject and its baseline, and reads both in the remaining, comparable form."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from invarlock.checkpoints.equivalence import norms, orders, rotation, scales
from invarlock.checkpoints.equivalence.anatomy import Anatomy, describe
from invarlock.checkpoints.equivalence.sides import BIAS_MOVED, BIAS_WORSE, Removed, Sides
from invarlock.checkpoints.families import has_table
from invarlock.checkpoints.formats.interface import Checkpoint, Defect, Storage
from invarlock.checkpoints.safetensors_files import CheckpointFiles

# Tensors that are soon read again stay in memory: the last two, and more up to this many bytes. The pages of a mapped
# file count in the resident set as long as its tensor is kept.
RECENT_BYTES = 1 << 24
# A head counts as a transformed embedding if at most this share of their relative difference is left. A packed head is
# one that a quantiser stored apart from the embedding; a dense one may differ only by rounding to eight bits.
UNTIED_LEFT = 0.3
UNTIED_DENSE_LEFT = 0.02

CONTRACT: Mapping[str, Any] = {
    "form": "each matrix after the steps that bring the subject nearest to its baseline and leave its function",
    "norms": "folded into the matrices that read them, on both sides",
    "rotation": "Procrustes of the embeddings; W Q where the residual stream is read, Q^T W where it is written",
    "scales": "<w_baseline, w_subject> / <w_baseline, w_baseline>, row by row of up and value projections, for the two "
    "rows of key projections that a rotary embedding turns together",
    "orders": "nearest rows by cosine: gates, heads, rows of routers",
    "limits": {
        "norms_left": [norms.MOST_LEFT, norms.LEAST_HELPED],
        "rotation_from": rotation.SAME,
        "rotation_left": [rotation.MOST_LEFT, rotation.MOST_LEFT_OF_CHANGE],
        "scales_left": scales.MOST_LEFT,
        "value_rotation_left": scales.MOST_LEFT_BY_ROTATION,
        "in_place": orders.IN_PLACE,
        "found": orders.FOUND,
        "untied_left": UNTIED_LEFT,
        "untied_dense_left": UNTIED_DENSE_LEFT,
        "bias_moved": BIAS_MOVED,
        "bias_worse": BIAS_WORSE,
    },
    "arithmetic": "float32, Procrustes float64",
}


@dataclass
class RecentTensors:
    """A checkpoint that keeps the most recently read tensors in memory."""

    stored: Checkpoint
    _kept: OrderedDict[str, torch.Tensor] = field(default_factory=OrderedDict)

    @property
    def files(self) -> CheckpointFiles:
        """Return the entries of the underlying checkpoint."""
        return self.stored.files

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, from memory if it was read recently."""
        if name not in self._kept:
            self._kept[name] = self.stored.read(name)
        self._kept.move_to_end(name)
        while len(self._kept) > 2 and sum(tensor.nbytes for tensor in self._kept.values()) > RECENT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[name]

    def storage(self) -> Storage:
        """Return how the checkpoint stores its weights."""
        return self.stored.storage()

    def check(self) -> tuple[Defect, ...]:
        """Return the defects of the checkpoint."""
        return self.stored.check()


def find_equivalence(base: Checkpoint, own: Checkpoint) -> Sides:
    """Return both sides in the form in which they are compared, with the differences that were removed.

    Every step preserves the subject's function, so no defect can be hidden by it: the remaining difference from the
    baseline is complete. A step is used only if it makes the difference smaller, in the matrices and in their biases.

    Args:
        base: the baseline.
        own: the subject, with the baseline's tensor names.
    """
    kind = base.files.model_type
    if not has_table(kind):
        return Sides(base, own).skip("all", f"model_type {kind} has no table of module names")
    head = next(iter(own.files.with_role("head")), None)
    anatomy = describe(base.files, head)
    sides = Sides(RecentTensors(base), RecentTensors(own))
    if anatomy is None:
        return sides.skip("all", f"its norms follow what they would be folded into, model_type {kind}")
    sides = replace(sides, compares_biases=not _norm_biases_differ(sides))
    sides = _with_heads(sides, anatomy)
    sides = _residual_stream(sides, anatomy)
    for attention in anatomy.attentions:
        sides = orders.order_heads(sides, attention)
        sides = scales.undo_value_rotations(sides, attention)
        sides = scales.undo_value_scales(sides, attention)
        sides = scales.undo_key_scales(sides, attention)
    for experts in anatomy.experts:
        sides = orders.order_experts(sides, experts)
    for ffn in anatomy.feedforwards:
        sides = orders.order_units(sides, ffn)
        sides = scales.undo_unit_scales(sides, ffn)
    return replace(sides, removed=_by_kind(sides.removed), skipped=tuple(dict.fromkeys(sides.skipped)))


def _norm_biases_differ(sides: Sides) -> bool:
    """Return whether the bias of a norm differs: folding a LayerNorm moves its bias into the biases of matrices."""
    names = [
        name for name, module in sides.base.files.modules.items() if module.family == "norm" and name.endswith(".bias")
    ]
    return any(
        sides.base.files.shapes[name] != sides.own.files.shapes.get(name) or not torch.equal(*sides.vector(name))
        for name in names
    )


def _with_heads(sides: Sides, anatomy: Anatomy) -> Sides:
    """Return both sides with the embedding as the head if a side stores no head."""
    head = anatomy.head
    if head is None:
        return sides
    if head.tensor not in sides.base.files.shapes:
        return replace(sides, base_sources={head: anatomy.tokens})
    if head.tensor not in sides.own.files.shapes:
        return replace(sides, own_sources={head: anatomy.tokens})
    return sides


def _residual_stream(sides: Sides, anatomy: Anatomy) -> Sides:
    """Return both sides with norms folded and the residual stream rotated back, if the subject needs it."""
    folded = norms.fold(sides, anatomy)
    rotated = rotation.undo_rotation(folded, anatomy)
    names, largest = norms.largest_change(sides, anatomy)
    if not rotated.removed and not (names and norms.are_folded(sides, anatomy)):
        return _untied_head(replace(sides, skipped=rotated.skipped), anatomy, _most_left(sides, anatomy))
    if names:
        rotated = rotated.remove("norms", names, largest)
    return _untied_head(rotated, anatomy, UNTIED_LEFT)


def _most_left(sides: Sides, anatomy: Anatomy) -> float:
    """Return how much of the difference between a stored head and the embedding may be left, by how it is stored."""
    storage, head = sides.own.storage(), anatomy.head
    packed = storage.quantisation is not None and head is not None and head.tensor not in storage.unpacked_modules
    return UNTIED_LEFT if packed else UNTIED_DENSE_LEFT


def _untied_head(sides: Sides, anatomy: Anatomy, most_left: float) -> Sides:
    """Return both sides with the head compared with the embedding, if only the baseline's head is tied to it."""
    head = anatomy.head
    if head is None or head not in sides.base_sources or not sides.has(head):
        return sides
    base, own = sides.pair(head)
    left = float(torch.linalg.vector_norm(own - base) / torch.linalg.vector_norm(base))
    return sides.remove("untied_head", [head.label], left) if left < most_left else sides


def _by_kind(removed: tuple[Removed, ...]) -> tuple[Removed, ...]:
    """Return the removed differences, with the modules of each kind combined."""
    kinds: dict[str, Removed] = {}
    for one in removed:
        before = kinds.get(one.kind)
        sizes = [part.largest for part in (before, one) if part is not None and part.largest is not None]
        modules = (*(before.modules if before else ()), *one.modules)
        kinds[one.kind] = Removed(one.kind, modules, max(sizes, default=None))
    return tuple(kinds.values())
