"""Selecting the tensors that a fault damages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from invarlock.checkpoints.architectures import Family, Role
from invarlock.checkpoints.families import Module, matrices
from invarlock.checkpoints.rewriting import Make, Replacement, Rewrite
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.errors import EditError

# Stored types that a fault's float32 arithmetic can write back.
BREAKABLE_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class FaultPlan:
    """The plan of a fault: the rewrite, the parameters including defaults, and a one-line description."""

    rewrite: Rewrite
    parameters: Mapping[str, Any]
    detail: str


def breakable_matrices(files: CheckpointFiles, *families: Family) -> dict[str, Module]:
    """Return the attention and FFN matrices of those families, in the order of computation."""
    return {
        name: module
        for name, module in matrices(files.model_type, files.shapes).items()
        if module.family in families and files.entries[name].dtype in BREAKABLE_DTYPES
    }


def with_matrix_role(files: CheckpointFiles, role: Role) -> list[str]:
    """Return the names of the matrices with that role, in the order of computation."""
    return [name for name, module in breakable_matrices(files, "attn", "ffn").items() if module.role == role]


def named_tensors(files: CheckpointFiles, error_type: str, names: Sequence[str]) -> list[str]:
    """Return the names after checking that each is an existing floating-point tensor.

    Raises:
        EditError: when one of them is not.
    """
    for name in names:
        if name not in files.entries:
            raise EditError(f"fault {error_type}: {files.folder} has no tensor {name!r}; give an existing one")
        if files.entries[name].dtype not in BREAKABLE_DTYPES or files.entries[name].elements == 0:
            raise EditError(
                f"fault {error_type}: {name!r} of {files.folder} is stored as {files.entries[name].dtype} "
                f"{list(files.entries[name].shape)}; give a weight in {', '.join(BREAKABLE_DTYPES)}"
            )
    return list(names)


def nothing_to_break(files: CheckpointFiles, error_type: str, wanted: str) -> EditError:
    """Return the error of a fault that finds nothing to damage."""
    return EditError(f"fault {error_type}: {files.folder} has no {wanted}; use another model or another fault")


def replacing(names: Sequence[str], make: Make) -> Rewrite:
    """Return the rewrite that puts ``make`` of each tensor in its place."""
    return Rewrite({name: Replacement(name, make) for name in names})


def by_matrix(make: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """Return ``make`` applied to each matrix of an expert stack, and to a plain matrix as it is.

    Args:
        make: takes a float32 matrix and returns one of its shape; the stored dtype is put back here.
    """

    def make_all(weight: torch.Tensor) -> torch.Tensor:
        stack = weight if weight.ndim == 3 else weight[None]
        made = torch.empty_like(stack)
        for index, matrix in enumerate(stack):
            made[index] = make(matrix.float())
        return made.view_as(weight)

    return make_all
