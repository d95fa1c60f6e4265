"""Edit specs: the text that names an edit, its parameters and its scope.

Example::

    parse_edit_spec("quant_rtn:4:32:ffn@layer=15")
    # EditSpec(edit="quant_rtn", parameters={"bits": 4, "group_size": 32}, scope=Scope("ffn", 15))
    parse_edit_spec("quant_rtn:clean:ffn")
    # CleanSpec(edit="quant_rtn", scope=Scope("ffn", None)), resolved from the tuned parameters of a model
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

from invarlock.errors import UsageError

EditName = Literal["noop", "quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd"]
ScopeFamily = Literal["ffn", "attn", "all"]

EDIT_NAMES: tuple[EditName, ...] = get_args(EditName)
SCOPE_FAMILIES: tuple[ScopeFamily, ...] = get_args(ScopeFamily)
FP8_FORMATS = ("e4m3", "e5m2")
SYNTAX: dict[EditName, str] = {
    "noop": "noop",
    "quant_rtn": "quant_rtn:<bits 2..8>:<group size>:<scope>",
    "fp8_quant": "fp8_quant:<e4m3|e5m2>:<scope>",
    "magnitude_prune": "magnitude_prune:<fraction>:<scope>",
    "lowrank_svd": "lowrank_svd:<rank>:<scope>",
}

_SCOPE = re.compile(r"(ffn|attn|all)(?:@layer=(0|[1-9][0-9]{0,5}))?")


@dataclass(frozen=True)
class Scope:
    """The weights that an edit takes: a family of modules, in one block or in all."""

    family: ScopeFamily
    layer: int | None = None

    def __str__(self) -> str:
        return self.family if self.layer is None else f"{self.family}@layer={self.layer}"


@dataclass(frozen=True)
class EditSpec:
    """An edit with all its parameters; ``scope`` is None for ``noop`` only."""

    edit: EditName
    parameters: Mapping[str, int | float | str] = field(default_factory=dict)
    scope: Scope | None = None

    def __str__(self) -> str:
        values = [str(value) for value in self.parameters.values()]
        return ":".join([self.edit, *values, *([str(self.scope)] if self.scope else [])])


@dataclass(frozen=True)
class CleanSpec:
    """An edit whose parameters are the ones selected for a model."""

    edit: EditName
    scope: Scope


@lru_cache(maxsize=256)
def parse_edit_spec(text: str) -> EditSpec | CleanSpec:
    """Return the edit that a spec names.

    Raises:
        UsageError: when the text is no edit spec, or a parameter is out of range.
    """
    name, *fields = text.split(":")
    edit = next((known for known in EDIT_NAMES if known == name), None)
    if edit is None:
        raise UsageError(f"edit spec {text!r}: unknown edit {name!r}; known: {', '.join(EDIT_NAMES)}")
    if edit == "noop":
        if fields:
            raise UsageError(f"edit spec {text!r}: noop takes nothing; write {SYNTAX[edit]}")
        return EditSpec("noop")
    if len(fields) == 2 and fields[0] == "clean":
        return CleanSpec(edit, parse_scope(fields[1], where=text))
    wanted = SYNTAX[edit].count(":")
    if len(fields) != wanted:
        raise UsageError(f"edit spec {text!r}: {len(fields)} fields after the edit; write {SYNTAX[edit]}")
    *values, scope = fields
    return make_edit_spec(edit, dict(zip(PARAMETERS[edit], values, strict=True)), parse_scope(scope, where=text), text)


PARAMETERS: dict[EditName, tuple[str, ...]] = {
    "noop": (),
    "quant_rtn": ("bits", "group_size"),
    "fp8_quant": ("format",),
    "magnitude_prune": ("sparsity",),
    "lowrank_svd": ("rank",),
}


def make_edit_spec(edit: EditName, values: Mapping[str, object], scope: Scope, where: str) -> EditSpec:
    """Return an edit spec from parameter values, numbers or their text; ``where`` names their source.

    Raises:
        UsageError: when a value is missing or out of range.
    """
    parameters: dict[str, int | float | str] = {}
    for name in PARAMETERS[edit]:
        if name not in values:
            raise UsageError(f"{where}: {edit} needs {name!r}; write {SYNTAX[edit]}")
        parameters[name] = _parameter(name, str(values[name]), where)
    return EditSpec(edit, parameters, scope)


def parse_scope(text: str, *, where: str) -> Scope:
    """Return a scope such as ``ffn`` or ``attn@layer=3``.

    Raises:
        UsageError: when it is none.
    """
    match = _SCOPE.fullmatch(text)
    if match is None:
        raise UsageError(f"{where}: scope {text!r} is none of {', '.join(SCOPE_FAMILIES)}, optionally with @layer=N")
    family = next(known for known in SCOPE_FAMILIES if known == match[1])
    return Scope(family, None if match[2] is None else int(match[2]))


def _parameter(name: str, text: str, where: str) -> int | float | str:
    if name == "format":
        if text in FP8_FORMATS:
            return text
        raise UsageError(f"{where}: format {text!r} is none of {', '.join(FP8_FORMATS)}")
    if name == "sparsity":
        try:
            sparsity = float(text)
        except ValueError:
            sparsity = -1.0
        if 0 < sparsity < 1:
            return sparsity
        raise UsageError(f"{where}: the fraction to prune must be between 0 and 1, not {text!r}")
    low, high = {"bits": (2, 8), "group_size": (1, 1 << 20), "rank": (1, 1 << 20)}[name]
    if re.fullmatch(r"[0-9]{1,7}", text) and low <= int(text) <= high:
        return int(text)
    raise UsageError(f"{where}: {name} must be a whole number from {low} to {high}, not {text!r}")
