"""What each tensor of a checkpoint is: its family, its role in the block, and its place.

Example::

    classify("mixtral", "model.layers.0.block_sparse_moe.experts.1.w2.weight", (4096, 14336))
    # Module(family="ffn", role="down", layer=0, expert=1, transposed=False, experts=False)

A name may carry its base model's prefix (``model.``, ``transformer.``) or not. A tensor that the table of
``architectures`` does not name (masks and rotary tables of old checkpoints) is ``other``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from invarlock.catalog.edit_specs import Scope
from invarlock.checkpoints.architectures import ARCHITECTURES, Architecture, Family, Role, Rows
from invarlock.errors import CheckpointError, EditError

# The order of matrices within a block, by role: attention from its input to its output, then the FFN.
ROLES: tuple[Role, ...] = ("q", "k", "v", "qkv", "o", "gate", "gate_up", "up", "down")
_PARAMETERS = ("weight", "bias", "gamma", "beta")
_NUMBER = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class Module:
    """The module that a tensor belongs to.

    ``transposed`` matrices are stored (in, out), as in GPT-2; ``experts`` stacks have shape (expert, out, in).
    """

    family: Family
    role: Role
    layer: int | None
    expert: int | None
    transposed: bool
    experts: bool


def architecture(model_type: str) -> Architecture:
    """Return the module names of a model type.

    Raises:
        CheckpointError: when there is no table for it.
    """
    if model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"config.json: model_type {model_type!r} has no table of module names; "
            f"use a model of one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]


def classify(model_type: str, tensor_name: str, shape: Sequence[int]) -> Module:
    """Return what the tensor of that name and shape is in a model of that type.

    Raises:
        CheckpointError: when there is no table for the model type.
    """
    segments = tensor_name.split(".")
    numbers = [int(segment) for segment in segments if _NUMBER.fullmatch(segment)]
    if segments[-1] in _PARAMETERS:
        segments.pop()
    pattern = ".".join("*" if _NUMBER.fullmatch(segment) else segment for segment in segments)
    rows = matching_rows(model_type, pattern)
    family, role = rows[0][1:] if rows else ("other", "")
    in_block = family in ("attn", "ffn")
    return Module(
        family=family,
        role=role,
        layer=numbers[0] if numbers else None,
        expert=numbers[1] if len(numbers) > 1 else None,
        transposed=in_block and len(shape) == 2 and architecture(model_type).transposed,
        experts=in_block and len(shape) == 3,
    )


@lru_cache(maxsize=4096)
def matching_rows(model_type: str, pattern: str) -> Rows:
    """Return the rows of the table that name a module whose numbers are written ``*``: one, or none.

    Raises:
        CheckpointError: when there is no table for the model type.
    """
    known = architecture(model_type)
    names = {pattern, *(pattern.removeprefix(prefix) for prefix in known.prefixes)}
    return tuple(row for row in known.modules if row[0] in names)


def matrices(model_type: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Module]:
    """Return the attention and FFN matrices (expert stacks too) of a checkpoint, in the order of computation.

    By block, then by role (q, k, v, o, gate or w1, up or w3, down or w2), then by expert.

    Raises:
        CheckpointError: when there is no table for the model type.
    """
    modules = {name: classify(model_type, name, shape) for name, shape in shapes.items()}
    found = {
        name: module
        for name, module in modules.items()
        if module.family in ("attn", "ffn") and (module.experts or len(shapes[name]) == 2) and 0 not in shapes[name]
    }

    def place(name: str) -> tuple[int, int, int, str]:
        module = found[name]
        return (module.layer or 0, ROLES.index(module.role), -1 if module.expert is None else module.expert, name)

    return {name: found[name] for name in sorted(found, key=place)}


def count_blocks(modules: Iterable[Module]) -> int:
    """Return how many blocks the modules belong to, counted from block 0."""
    return max((module.layer + 1 for module in modules if module.layer is not None), default=0)


def tensors_in_scope(
    model_type: str, shapes: Mapping[str, Sequence[int]], scope: Scope, *, where: str
) -> dict[str, Module]:
    """Return the weights that an edit of that scope takes, in the order of computation.

    Matrices of attention and FFN only: never embeddings, norms, routers, biases or the output head.

    Args:
        model_type: of the config.
        shapes: tensor name to shape, as stored.
        scope: of the edit.
        where: names the checkpoint in messages.

    Raises:
        CheckpointError: when there is no table for the model type.
        EditError: when nothing is in scope.
    """
    known = matrices(model_type, shapes)
    found = {
        name: module
        for name, module in known.items()
        if scope.family in ("all", module.family) and scope.layer in (None, module.layer)
    }
    if not found:
        blocks = count_blocks(known.values())
        raise EditError(
            f"{where}: scope {str(scope)!r} takes none of its {len(shapes)} tensors; the model has {blocks} "
            f"block{'s' * (blocks != 1)}, numbered from 0"
        )
    return found
