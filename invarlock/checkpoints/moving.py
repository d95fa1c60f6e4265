"""Moves factors and rotations between the matrices of a checkpoint, so that other weights compute the same function.

Example::

    weights = MovedWeights(read_checkpoint(Path("baseline")))
    weights.fold_norms()
    weights.rotate(rotation)
    weights.rewrite(lambda matrix: matrix)      # what ``rewrite_checkpoint`` writes, tensor by tensor

This implements ``edits.edit.Weights`` for a checkpoint; ``equivalence.anatomy`` describes how matrices are connected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from safetensors import safe_open

from invarlock.checkpoints.equivalence.anatomy import Anatomy, Attention, FeedForward, Norm, Rows, Site, describe
from invarlock.checkpoints.equivalence.steps import Rotate, Scale, Step, apply, apply_to_outputs
from invarlock.checkpoints.families import matrices
from invarlock.checkpoints.rewriting import Replacement, Rewrite
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.edits.edit import Features
from invarlock.errors import EditError

# The name of a head that was tied to the embedding and is now stored.
HEAD = "lm_head.weight"
Finish = Callable[[torch.Tensor], torch.Tensor]
_Part = Norm | Attention | FeedForward


@dataclass
class MovedWeights:
    """A checkpoint whose weights are transformed; nothing is written before ``rewrite``.

    Raises:
        EditError: when it is not known how the matrices of its architecture are connected.
    """

    files: CheckpointFiles

    def __post_init__(self) -> None:
        self._steps: dict[Site, list[Step]] = defaultdict(list)
        self._vectors: dict[str, torch.Tensor] = {}
        self._untied = False
        self._anatomy = self._described(None)
        self._parts = dict(self._scalable())

    def _described(self, own_head: str | None) -> Anatomy:
        found = describe(self.files, own_head)
        if found is None:
            raise self._refused("its norms follow what they would be folded into")
        return found

    def _refused(self, why: str) -> EditError:
        return EditError(f"{self.files.folder}: its weights cannot be moved ({why}); use another edit or another model")

    @property
    def residual(self) -> Features:
        """The features of the residual stream."""
        return Features("residual stream", self.files.shapes[self._anatomy.tokens.tensor][-1])

    @property
    def scalable(self) -> Sequence[Features]:
        """The outputs of norms in blocks, value projections and up projections, if scales of them can be undone."""
        return tuple(self._parts)

    def _scalable(self) -> list[tuple[Features, _Part]]:
        anatomy = self._anatomy
        parts: list[tuple[Features, _Part]] = [
            (Features(norm.weight, self.files.shapes[norm.weight][0]), norm)
            for norm in anatomy.norms
            if all(site in anatomy.readers for site in norm.readers)
        ]
        parts += [(Features(one.value.site.label, one.value.index.numel()), one) for one in anatomy.attentions]
        parts += [
            (Features(one.up.site.label, one.up.index.numel()), one)
            for one in anatomy.feedforwards
            if one.freedom != "none"
        ]
        return parts

    def scale(self, features: Features, factors: torch.Tensor) -> None:
        """Multiply the matrices that read the features by positive factors, and divide the part that produces them."""
        part = self._parts[features]
        if isinstance(part, Norm):
            self._scale_norm(part, factors)
        elif isinstance(part, Attention):
            self._scale_outputs(part.value, factors)
            groups, size = part.value.index.shape
            repeats = len(part.query.index) // groups
            inputs = factors.view(groups, size).repeat_interleave(repeats, 0).flatten()
            self._steps[part.output].append(Scale("inputs", inputs))
        else:
            self._scale_outputs(part.up, factors)
            self._steps[part.down].append(Scale("inputs", factors))

    def _scale_norm(self, norm: Norm, factors: torch.Tensor) -> None:
        self._vectors[norm.weight] = (self._vector(norm.weight) + norm.offset) / factors - norm.offset
        bias = _bias(norm.weight)
        if bias in self.files.entries:
            self._vectors[bias] = self._vector(bias) / factors
        for site in norm.readers:
            self._steps[site].append(Scale("inputs", factors))

    def _scale_outputs(self, rows: Rows, factors: torch.Tensor) -> None:
        module, shape = self.files.modules[rows.site.tensor], self.files.shapes[rows.site.tensor]
        whole = torch.ones(shape[-1] if module.transposed else shape[-2])
        whole[rows.index.flatten()] = 1 / factors
        self._steps[rows.site].append(Scale("outputs", whole))

    def fold_norms(self) -> None:
        """Multiply every matrix that reads a norm by the norm's weight; a tied head gets its own weights."""
        if self._anatomy.head is None:
            self._untied = True
            self._anatomy = self._described(HEAD)
        biased = next((norm.weight for norm in self._anatomy.norms if _bias(norm.weight) in self.files.entries), None)
        if biased is not None:
            raise self._refused(f"the norm {biased} has a bias")
        for norm in self._anatomy.norms:
            factors = self._vector(norm.weight) + norm.offset
            for site in norm.readers:
                self._steps[site].append(Scale("inputs", factors))
            self._vectors[norm.weight] = torch.full_like(factors, 1 - norm.offset)

    def rotate(self, rotation: torch.Tensor) -> None:
        """Rotate the residual stream by an orthogonal matrix, after norms are folded."""
        anatomy = self._anatomy
        if anatomy.fixed is not None or anatomy.subtracts_mean:
            raise self._refused(anatomy.fixed or "its norms subtract the mean")
        reads, writes = Rotate("inputs", rotation), Rotate("outputs", rotation)
        heads = () if anatomy.head is None else (anatomy.head,)
        for site in (*anatomy.embeddings, *anatomy.readers, *heads):
            self._steps[site].append(reads)
        for site in anatomy.writers:
            self._steps[site].append(writes)

    def rewrite(self, finish: Finish) -> Rewrite:
        """Return the replacements; ``finish`` gets each matrix of attention and FFN, (out, in), float32."""
        known = matrices(self.files.model_type, self.files.shapes)
        replacements: dict[str, Replacement] = {}
        for name in dict.fromkeys([*(site.tensor for site in self._steps), *known]):
            source = name if name in self.files.entries else self._anatomy.tokens.tensor
            replacements[name] = Replacement(source, self._matrix(name, finish if name in known else None))
            bias = _bias(name)
            steps = self._steps.get(Site(name), ())
            if bias in self.files.entries and any(step.side == "outputs" for step in steps):
                replacements[bias] = Replacement(bias, _moved_bias(steps))
        for name, vector in self._vectors.items():
            replacements[name] = Replacement(name, _constant(vector))
        return Rewrite(replacements, config={"tie_word_embeddings": False} if self._untied else {})

    def _matrix(self, name: str, finish: Finish | None) -> Callable[[torch.Tensor], torch.Tensor]:
        module = self.files.modules.get(name)
        transposed = module is not None and module.transposed

        def make(weight: torch.Tensor) -> torch.Tensor:
            stacked = weight.ndim == 3
            moved = torch.empty_like(weight)
            for number, matrix in enumerate(weight if stacked else weight[None]):
                steps = self._steps.get(Site(name, number if stacked else None), ())
                result = apply(steps, (matrix.mT if transposed else matrix).float())
                result = result if finish is None else finish(result.contiguous())
                (moved[number] if stacked else moved).copy_(result.mT if transposed else result)
            return moved

        return make

    def _vector(self, name: str) -> torch.Tensor:
        if name not in self._vectors:
            entry = self.files.entries[name]
            with safe_open(self.files.folder / entry.shard, framework="pt") as tensors:
                self._vectors[name] = tensors.get_tensor(name).float()
        return self._vectors[name]


def _bias(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.bias"


def _moved_bias(steps: Sequence[Step]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda bias: apply_to_outputs(steps, bias.float()[None])[0].to(bias.dtype)


def _constant(vector: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda stored: vector.to(stored.dtype)
