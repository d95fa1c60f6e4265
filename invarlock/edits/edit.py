"""The edit object: it parses its parameters, changes a matrix, and describes the result.

Example::

    EDIT = Edit("quant_rtn", (Parameter("bits", whole_number("bits", 2, 8), ...), ...), syntax=..., apply=...)

An edit is one module of this folder and one line of ``EDITS``. Specs are also parsed without PyTorch, so a module
imports it inside the functions that compute, not at the top.
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
# The module families of a scope; ``all`` is both.
SCOPE_FAMILIES = ("ffn", "attn", "all")


@dataclass(frozen=True)
class Parameter:
    """A parameter of an edit.

    Attributes:
        name: its key in reports and in ``tuned_edit_params.json``.
        read: returns its value, given its text and its source for a UsageError.
        schema: the JSON Schema of its value.
    """

    name: str
    read: Callable[[str, str], Value]
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Edit:
    """A deliberate change of a model's weights.

    Attributes:
        name: the first field of its specs.
        parameters: the following fields in order; the scope is last.
        syntax: its spec for people, such as ``lowrank_svd:<rank>:<scope>``.
        apply: returns the edited matrix, shape (out, in), in its own dtype.
        storage_format: how its subjects are stored, for ``edit_metadata.json``.
        semantics: what it does, for ``edit_metadata.json``.
        ladder: returns the parameters that the tuner tries, from mild to strong, given the smallest side of the
            matrices in scope; None if the edit is not tuned.
        tunes_one_block: whether the tuner edits a single block unless a scope is given.
        takes_weights: whether it has a scope; an edit without one changes nothing.
        family_scope: the module families allowed in its scope.
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
    """Return a parser for a whole number from ``low`` to ``high``."""

    def read(text: str, where: str) -> int:
        if re.fullmatch(r"[0-9]{1,7}", text) and low <= int(text) <= high:
            return int(text)
        raise UsageError(f"{where}: {name} must be a whole number from {low} to {high}, not {text!r}")

    return read


def one_of(name: str, known: tuple[str, ...]) -> Callable[[str, str], str]:
    """Return a parser for one of the given strings."""

    def read(text: str, where: str) -> str:
        if text in known:
            return text
        raise UsageError(f"{where}: {name} {text!r} is unknown; use one of {', '.join(known)}")

    return read


def at_least(low: int) -> dict[str, Any]:
    """Return the schema of a whole number of at least ``low``."""
    return {"maximum": 1_000_000_000_000, "minimum": low, "type": "integer"}
