"""What an edit is: one object that reads its parameters, changes a matrix, and says what became of it.

Example::

    EDIT = Edit("quant_rtn", (Parameter("bits", whole_number("bits", 2, 8), ...), ...), syntax=..., apply=...)

An edit is a module of this folder and a line of ``EDITS``. Specs are read where PyTorch is not installed: a module
imports it in the functions that compute, not at its top.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invarlock.errors import UsageError

if TYPE_CHECKING:
    import torch

Value = int | float | str
Parameters = Mapping[str, Value]
# Families of modules that a scope may name; ``all`` is both.
SCOPE_FAMILIES = ("ffn", "attn", "all")


@dataclass(frozen=True)
class Parameter:
    """A parameter of an edit.

    Attributes:
        name: its key in reports and in ``tuned_edit_params.json``.
        read: returns its value, given its text and the source that a UsageError names.
        schema: of its value, as JSON Schema.
    """

    name: str
    read: Callable[[str, str], Value]
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Edit:
    """A change that people make on purpose.

    Attributes:
        name: the first field of its specs.
        parameters: the fields that follow, in their order; the scope comes last.
        syntax: its spec for people, such as ``lowrank_svd:<rank>:<scope>``.
        apply: returns a matrix as the edit leaves it, shape (out, in), in its own dtype.
        storage_format: how its subjects are stored, for ``edit_metadata.json``.
        semantics: what it does, for ``edit_metadata.json``.
        ladder: returns the parameters that the tuner tries, from mild to strong, given the smallest side of the
            matrices in scope; None where nothing is tuned.
        tunes_one_block: whether the tuner takes one block unless a scope is given.
        takes_weights: whether it has a scope; an edit without one changes nothing.
        family_scope: the families of modules that its scope may name.
    """

    name: str
    parameters: tuple[Parameter, ...]
    syntax: str
    apply: Callable[[torch.Tensor, Parameters], torch.Tensor]
    storage_format: str
    semantics: str
    ladder: Callable[[int], Sequence[Parameters]] | None = None
    tunes_one_block: bool = False
    takes_weights: bool = True
    family_scope: tuple[str, ...] = SCOPE_FAMILIES


def whole_number(name: str, low: int, high: int) -> Callable[[str, str], int]:
    """Return the reader of a whole number from ``low`` to ``high``."""

    def read(text: str, where: str) -> int:
        if re.fullmatch(r"[0-9]{1,7}", text) and low <= int(text) <= high:
            return int(text)
        raise UsageError(f"{where}: {name} must be a whole number from {low} to {high}, not {text!r}")

    return read


def one_of(name: str, known: tuple[str, ...]) -> Callable[[str, str], str]:
    """Return the reader of one of some texts."""

    def read(text: str, where: str) -> str:
        if text in known:
            return text
        raise UsageError(f"{where}: {name} {text!r} is none of {', '.join(known)}")

    return read


def at_least(low: int) -> dict[str, Any]:
    """Return the schema of a whole number of at least ``low``."""
    return {"maximum": 1_000_000_000_000, "minimum": low, "type": "integer"}
