"""The edit object: it parses its parameters, changes a matrix, and describes the result.

Example::

    EDIT = Edit("quant_rtn", (Parameter("bits", whole_number("bits", 2, 8), ...), ...), ..., apply=...)

An edit is one module of this folder and one line of ``EDITS``. Specs are also parsed where PyTorch is not installed, so
a module imports PyTorch inside the functions that compute, not at the top. An edit of the whole model has no scope; it
calls ``Weights`` to move factors and rotations between matrices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from invarlock.errors import UsageError
from invarlock.problems import Code

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
class Features:
    """The output features of one part of a model, which other parts read: the part's ``name``, and their ``count``."""

    name: str
    count: int


class Weights(Protocol):
    """The weights of a model, with operations that change several matrices and preserve the model's function."""

    @property
    def residual(self) -> Features:
        """The features of the residual stream."""

    @property
    def scalable(self) -> Sequence[Features]:
        """The outputs of norms in blocks, value projections and up projections, if scales of them can be undone."""

    def scale(self, features: Features, factors: torch.Tensor) -> None:
        """Multiply the matrices that read the features by positive factors, and divide the part that produces them."""

    def fold_norms(self) -> None:
        """Multiply every matrix that reads a norm by the norm's weight.

        Raises:
            EditError: when a norm has a bias.
        """

    def rotate(self, rotation: torch.Tensor) -> None:
        """Rotate the residual stream by an orthogonal matrix, after norms are folded.

        Raises:
            EditError: when the architecture does not allow it.
        """


@dataclass(frozen=True)
class Packing:
    """A packed way to store matrices of attention and FFN.

    Attributes:
        parts: returns the stored dtype and shape of each part of a matrix, by name suffix, given the matrix's shape.
        pack: returns the parts of a matrix (out, in) that has its stored dtype.
        config: returns ``quantization_config``, given the modules that stay dense.
    """

    parts: Callable[[tuple[int, int], str, Parameters], Mapping[str, tuple[str, tuple[int, ...]]]]
    pack: Callable[[torch.Tensor, Parameters], Mapping[str, torch.Tensor]]
    config: Callable[[Sequence[str], Parameters], Mapping[str, Any]]


@dataclass(frozen=True)
class Edit:
    """A deliberate change of a model's weights.

    Attributes:
        name: the first field of its specs.
        parameters: the following fields in order; the scope is last.
        syntax: the form of its specs for people, such as ``lowrank_svd:<rank>:<scope>``.
        apply: returns the edited matrix, shape (out, in), in its own dtype.
        storage_format: how its subjects are stored, for ``edit_metadata.json``.
        semantics: what it does, for ``edit_metadata.json``.
        ladder: returns the parameters that the tuner tries, from mild to strong, given the smallest side of the
            matrices in scope; None if the edit is not tuned.
        tunes_one_block: whether the tuner edits a single block unless a scope is given.
        takes_weights: whether it changes any weights.
        family_scope: the module families allowed in its scope; empty for an edit of the whole model.
        move: moves factors or rotations between matrices of the whole model, before ``apply`` edits attention and FFN.
        packing: how its matrices are packed; None if they stay dense. An edit with packing changes the whole model.
        touches: the families of tensors that an edit of the whole model may change.
        on_gpu: whether ``apply`` computes on a GPU if there is one.
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
    move: Callable[[Weights], None] | None = None
    packing: Packing | None = None
    touches: tuple[str, ...] = ()
    on_gpu: bool = False


def whole_number(name: str, low: int, high: int) -> Callable[[str, str], int]:
    """Return a parser for a whole number from ``low`` to ``high``."""

    def read(text: str, where: str) -> int:
        if re.fullmatch(r"[0-9]{1,7}", text) and low <= int(text) <= high:
            return int(text)
        raise UsageError(
            f"{name} must be a whole number from {low} to {high}, not {text!r}",
            code=Code.EDIT_SPEC_INVALID,
            where=where,
        )

    return read


def one_of(name: str, known: tuple[str, ...]) -> Callable[[str, str], str]:
    """Return a parser for one of the given strings."""

    def read(text: str, where: str) -> str:
        if text in known:
            return text
        raise UsageError(
            f"{name} {text!r} is unknown; use one of {', '.join(known)}", code=Code.EDIT_SPEC_INVALID, where=where
        )

    return read


def at_least(low: int) -> dict[str, Any]:
    """Return the schema of a whole number of at least ``low``."""
    return {"maximum": 1_000_000_000_000, "minimum": low, "type": "integer"}
