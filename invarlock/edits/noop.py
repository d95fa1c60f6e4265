"""No edit: the subject is a byte-identical copy of its baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invarlock.edits.edit import Edit, Parameters

if TYPE_CHECKING:
    import torch


def _unchanged(weight: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    return weight


NOOP = Edit(
    name="noop",
    parameters=(),
    syntax="noop",
    apply=_unchanged,
    storage_format="dense_float",
    semantics="byte-identical copy",
    takes_weights=False,
    family_scope=(),
)
