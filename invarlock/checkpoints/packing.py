"""Packs the matrices of a dense checkpoint for ``rewrite_checkpoint``, one matrix at a time."""

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
# Returns the parts of a matrix to store, given its module and its packed parts.
Finish = Callable[[Module, Parts], Parts]


def unchanged(module: Module, parts: Parts) -> Parts:
    """Return the parts unchanged, as for a healthy subject."""
    return parts


def pack_checkpoint(
    files: CheckpointFiles, packing: Packing, parameters: Parameters, finish: Finish = unchanged
) -> Rewrite:
    """Return the rewrite that packs every matrix of attention and FFN, and adds the packing to the config.

    Args:
        files: the dense checkpoint.
        packing: the packing of an edit.
        parameters: the parameters of that edit.
        finish: changes the stored parts of a matrix.

    Raises:
        EditError: when there are no matrices, or experts are stored as a stack.
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
    """The parts of one matrix, which are computed once for all parts."""

    packing: Packing
    parameters: Parameters
    module: Module
    finish: Finish

    def __post_init__(self) -> None:
        self._parts: dict[str, torch.Tensor] = {}

    def part(self, part: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the function that returns one part of the matrix; each part is released when it is returned."""

        def make(weight: torch.Tensor) -> torch.Tensor:
            if part not in self._parts:
                self._parts = dict(self.finish(self.module, self.packing.pack(weight, self.parameters)))
            return self._parts.pop(part)

        return make
