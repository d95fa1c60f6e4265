"""Edit specs: a text with an edit, its parameters and its scope.

Example::

    >>> parse_edit_spec("quant_rtn:4:32:ffn@layer=15")
    EditSpec(edit='quant_rtn', parameters={'bits': 4, 'group_size': 32}, scope=Scope(family='ffn', layer=15))
    >>> parse_edit_spec("quant_rtn:clean:ffn")       # resolved from the tuned parameters of a model
    CleanSpec(edit='quant_rtn', scope=Scope(family='ffn', layer=None))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from invarlock.edits import BY_NAME
from invarlock.edits.edit import SCOPE_FAMILIES, Edit
from invarlock.errors import UsageError
from invarlock.problems import Code

EDIT_NAMES: tuple[str, ...] = tuple(BY_NAME)

_SCOPE = re.compile(rf"({'|'.join(SCOPE_FAMILIES)})(?:@layer=(0|[1-9][0-9]{{0,5}}))?")


@dataclass(frozen=True)
class Scope:
    """The weights that an edit changes: a family of modules, in one block or in all."""

    family: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.family if self.layer is None else f"{self.family}@layer={self.layer}"


@dataclass(frozen=True)
class EditSpec:
    """An edit with all its parameters; ``scope`` is None for ``noop`` and for edits of the whole model."""

    edit: str
    parameters: Mapping[str, int | float | str] = field(default_factory=dict)
    scope: Scope | None = None

    def __str__(self) -> str:
        values = [str(value) for value in self.parameters.values()]
        return ":".join([self.edit, *values, *([str(self.scope)] if self.scope else [])])


@dataclass(frozen=True)
class CleanSpec:
    """An edit that uses the tuned parameters of a model."""

    edit: str
    scope: Scope


@lru_cache(maxsize=256)
def parse_edit_spec(text: str) -> EditSpec | CleanSpec:
    """Parse an edit spec.

    Raises:
        UsageError: when the text is not an edit spec, or a parameter is out of range.
    """
    name, *fields = text.split(":")
    edit = BY_NAME.get(name)
    if edit is None:
        raise UsageError(
            f"edit spec {text!r}: unknown edit {name!r}; known: {', '.join(EDIT_NAMES)}", code=Code.EDIT_SPEC_INVALID
        )
    if not edit.takes_weights:
        if fields:
            raise UsageError(
                f"edit spec {text!r}: {name} takes no parameters; write {edit.syntax}", code=Code.EDIT_SPEC_INVALID
            )
        return EditSpec(name)
    if len(fields) == 2 and fields[0] == "clean" and edit.family_scope:
        return CleanSpec(name, _in_scope_of(edit, parse_scope(fields[1], where=text), text))
    if len(fields) != len(edit.parameters) + bool(edit.family_scope):
        raise UsageError(
            f"edit spec {text!r}: {len(fields)} fields after the edit; write {edit.syntax}", code=Code.EDIT_SPEC_INVALID
        )
    scope = parse_scope(fields.pop(), where=text) if edit.family_scope else None
    given = {parameter.name: value for parameter, value in zip(edit.parameters, fields, strict=True)}
    return make_edit_spec(name, given, scope, text)


def make_edit_spec(edit: str, values: Mapping[str, object], scope: Scope | None, where: str) -> EditSpec:
    """Return an edit spec from parameter values, given as numbers or text; ``where`` is their source for messages.

    ``scope`` is None for an edit of the whole model, and for no other.

    Raises:
        UsageError: when the edit is unknown, a value is missing or out of range, or the edit cannot take the scope.
    """
    known = BY_NAME.get(edit)
    if known is None:
        raise UsageError(
            f"unknown edit {edit!r}; known: {', '.join(EDIT_NAMES)}", code=Code.EDIT_SPEC_INVALID, where=where
        )
    parameters: dict[str, int | float | str] = {}
    for parameter in known.parameters:
        if parameter.name not in values:
            raise UsageError(
                f"{edit} needs {parameter.name!r}; write {known.syntax}", code=Code.EDIT_SPEC_INVALID, where=where
            )
        parameters[parameter.name] = parameter.read(str(values[parameter.name]), where)
    if scope is None and known.family_scope:
        raise UsageError(f"{edit} needs a scope; write {known.syntax}", code=Code.EDIT_SPEC_INVALID, where=where)
    return EditSpec(edit, parameters, None if scope is None else _in_scope_of(known, scope, where))


def _in_scope_of(edit: Edit, scope: Scope, where: str) -> Scope:
    if scope.family not in edit.family_scope:
        allowed = ", ".join(edit.family_scope) or "no scope"
        raise UsageError(
            f"{edit.name} cannot edit {scope.family!r}; allowed: {allowed}", code=Code.EDIT_SPEC_INVALID, where=where
        )
    return scope


def parse_scope(text: str, *, where: str) -> Scope:
    """Parse a scope such as ``ffn`` or ``attn@layer=3``.

    Raises:
        UsageError: when the text is not a scope.
    """
    match = _SCOPE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"unknown scope {text!r}; use {', '.join(SCOPE_FAMILIES)}, optionally with @layer=N",
            code=Code.EDIT_SPEC_INVALID,
            where=where,
        )
    return Scope(match[1], None if match[2] is None else int(match[2]))
