"""Classifies each tensor of a checkpoint: its family, its role in the block, and its block and expert.

Example::

    >>> classify("mixtral", "model.layers.0.block_sparse_moe.experts.1.w2.weight", (4096, 14336))
    Module(family='ffn', role='down', layer=0, expert=1, transposed=False, experts=False)

A name may have its base model's prefix (``model.``, ``transformer.``) or not. A tensor that is not in the table of
``architectures`` (masks and rotary tables of old checkpoints) is ``other``. For a model type without a table,
``roles_by_name`` decides by the words of the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from invarlock.catalog.edit_specs import Scope
from invarlock.checkpoints.architectures import ARCHITECTURES, Family, Role, Rows
from invarlock.checkpoints.roles_by_name import STACKED, by_name
from invarlock.errors import EditError

# The order of matrices within a block by role: attention from input to output, then the FFN.
ROLES: tuple[Role, ...] = ("q", "k", "v", "qkv", "o", "gate", "gate_up", "up", "down")
# Model types without a table whose matrices are stored (in, out).
TRANSPOSED = frozenset({"openai-gpt"})
# Model types whose stacks of experts are stored (expert, in, out).
TRANSPOSED_STACKS = frozenset({"aria", "aria_text", "gpt_oss", "llama4", "llama4_text", "openai_privacy_filter"})
_PARAMETERS = ("weight", "bias", "gamma", "beta")
_NUMBER = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class Module:
    """The module that a tensor belongs to.

    ``transposed`` matrices are stored (in, out), as in GPT-2. A stack of ``experts`` has shape (expert, out, in), or
    (expert, in, out) if it is ``transposed``, as in gpt-oss.
    """

    family: Family
    role: Role
    layer: int | None
    expert: int | None
    transposed: bool
    experts: bool


def has_table(model_type: str) -> bool:
    """Return whether a model type's module names are known exactly, and not only by their words."""
    return model_type in ARCHITECTURES


def classify(model_type: str, tensor_name: str, shape: Sequence[int]) -> Module:
    """Return the module of a tensor, given the model type and the tensor's name and shape."""
    segments = tensor_name.split(".")
    numbers = [int(segment) for segment in segments if _NUMBER.fullmatch(segment)]
    is_parameter = segments[-1] not in _PARAMETERS
    if not is_parameter:
        segments.pop()
    family: Family
    role: Role
    if has_table(model_type):
        pattern = ".".join("*" if _NUMBER.fullmatch(segment) else segment for segment in segments)
        rows = matching_rows(model_type, pattern)
        family, role = rows[0][1:] if rows else ("other", "")
        transposed = ARCHITECTURES[model_type].transposed
        of_expert = len(numbers) > 1
        stacked = len(shape) == 3
    else:
        family, role = by_name(segments, shape, is_parameter=is_parameter)
        transposed = model_type in TRANSPOSED
        of_expert = len(numbers) > 1 and any("expert" in segment for segment in segments)
        stacked = len(shape) == 3 and role in STACKED
    in_block = family in ("attn", "ffn")
    return Module(
        family=family,
        role=role,
        layer=numbers[0] if numbers else None,
        expert=numbers[1] if of_expert else None,
        transposed=in_block and ((len(shape) == 2 and transposed) or (stacked and model_type in TRANSPOSED_STACKS)),
        experts=in_block and stacked,
    )


@lru_cache(maxsize=4096)
def matching_rows(model_type: str, pattern: str) -> Rows:
    """Return the rows of a table for a module name with ``*`` for its numbers: one row, or none."""
    known = ARCHITECTURES[model_type]
    names = {pattern, *(pattern.removeprefix(prefix) for prefix in known.prefixes)}
    return tuple(row for row in known.modules if row[0] in names)


def matrices(model_type: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Module]:
    """Return the attention and FFN matrices (expert stacks too) of a checkpoint, in the order of computation.

    By block, then by role (q, k, v, o, gate or w1, up or w3, down or w2), then by expert.
    """
    modules = {name: classify(model_type, name, shape) for name, shape in shapes.items()}
    found = {
        name: module
        for name, module in modules.items()
        if module.family in ("attn", "ffn") and (module.experts or len(shapes[name]) == 2) and 0 not in shapes[name]
    }

    def place(name: str) -> tuple[int, int, int, str]:
        module = found[name]
        return (module.layer or 0, _place(module), -1 if module.expert is None else module.expert, name)

    return {name: found[name] for name in sorted(found, key=place)}


def _place(module: Module) -> int:
    return ROLES.index(module.role) if module.role in ROLES else len(ROLES)


def count_blocks(modules: Iterable[Module]) -> int:
    """Return how many blocks the modules belong to, counted from block 0."""
    return max((module.layer + 1 for module in modules if module.layer is not None), default=0)


def tensors_in_scope(
    model_type: str, shapes: Mapping[str, Sequence[int]], scope: Scope, *, where: str
) -> dict[str, Module]:
    """Return the weights in an edit's scope, in the order of computation.

    These are only matrices of attention and FFN: never embeddings, norms, routers, biases or the output head.

    Args:
        model_type: the ``model_type`` of the config.
        shapes: the stored shape of each tensor, by name.
        scope: the scope of the edit.
        where: the name of the checkpoint in messages.

    Raises:
        EditError: when no tensor is in scope.
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
