"""Packing the matrices of a dense checkpoint: what ``rewrite_checkpoint`` writes, one matrix at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from invarlock.checkpoints.families import Module, matrices
from invarlock.checkpoints.rewriting import Replacement, Rewrite
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.edits.edit import Packing, Parameters
from invarlock.errors import EditError

Parts = Mapping[str, torch.Tensor]
# Returns the parts of a matrix as they are stored, given its module.
Finish = Callable[[Module, Parts], Parts]


def unchanged(module: Module, parts: Parts) -> Parts:
    """Return the parts of a healthy matrix."""
    return parts


def pack_checkpoint(
    files: CheckpointFiles, packing: Packing, parameters: Parameters, finish: Finish = unchanged
) -> Rewrite:
    """Return the rewrite that stores every matrix of attention and FFN packed, and says so in the config.

    Args:
        files: the dense checkpoint.
        packing: of an edit.
        parameters: of that edit.
        finish: changes what is stored of a matrix.

    Raises:
        EditError: when there is no matrix, or experts are stored as a stack.
    """
    known = matrices(files.model_type, files.shapes)
    if not known:
        raise EditError(f"{files.folder}: no matrix of attention or FFN to pack; use another model")
    tensors: dict[str, Replacement] = {}
    for name, module in known.items():
        shape, stored = files.shapes[name], _Stored(packing, parameters, module, finish)
        if module.experts or module.transposed:
            raise EditError(f"{files.folder}: {name!r} is stored in a way that is not packed; use another model")
        for part, (dtype, size) in packing.parts((shape[0], shape[1]), files.entries[name].dtype, parameters).items():
            folder = name.removesuffix(".weight")
            tensors[f"{folder}.{part}"] = Replacement(name, stored.part(part), size, dtype)
    left = [
        name.removesuffix(".weight") for name, shape in files.shapes.items() if len(shape) == 2 and name not in known
    ]
    return Rewrite(
        tensors, drop=frozenset(known), config={"quantization_config": dict(packing.config(sorted(left), parameters))}
    )


@dataclass
class _Stored:
    """The parts of one matrix, which are made once for all of them."""

    packing: Packing
    parameters: Parameters
    module: Module
    finish: Finish

    def __post_init__(self) -> None:
        self._parts: dict[str, torch.Tensor] = {}

    def part(self, part: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what makes one part of the matrix; the parts are released as they are taken."""

        def make(weight: torch.Tensor) -> torch.Tensor:
            if part not in self._parts:
                self._parts = dict(self.finish(self.module, self.packing.pack(weight, self.parameters)))
            return self._parts.pop(part)

        return make
