"""Deployable specs: a text with a backend, its packing parameters, and the scope.

Example::

    >>> parse_deployable_spec("torchao_int8:8:128:all")
    DeployableSpec(backend='torchao_int8', bits=8, group_size=128, scope=Scope(family='all', layer=None))
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.catalog.edit_specs import Scope, parse_scope
from invarlock.errors import UsageError
from invarlock.problems import Code

# The pip requirement that installs all backends.
EXTRA = "deployable"
ROW = "row"


@dataclass(frozen=True)
class BackendFacts:
    """The facts about a backend that a plan needs: its packages, and what it can pack.

    Attributes:
        packages: required packages.
        bits: bits per weight.
        groups: whether it has one scale per group of weights, or only one per row.
    """

    packages: tuple[str, ...]
    bits: int
    groups: bool


BACKENDS: Mapping[str, BackendFacts] = {
    "torchao_int8": BackendFacts(("torchao",), 8, groups=True),
    "bitsandbytes_int8": BackendFacts(("bitsandbytes",), 8, groups=False),
}


@dataclass(frozen=True)
class DeployableSpec:
    """How a backend packs a model; ``group_size`` is the number of weights per scale, None for a whole row."""

    backend: str
    bits: int
    group_size: int | None
    scope: Scope

    def __str__(self) -> str:
        return f"{self.backend}:{self.bits}:{self.group_size or ROW}:{self.scope}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Return bits and group size as reports state them; a group size of 0 is a whole row."""
        return {"bits": self.bits, "group_size": self.group_size or ROW}


def parse_deployable_spec(text: str) -> DeployableSpec:
    """Parse a deployable spec: ``<backend>:<bits>:<group size|row>:<scope>``.

    Raises:
        UsageError: when it is malformed, or the backend does not support it.
    """
    fields = text.split(":")
    if len(fields) != 4:
        raise UsageError(
            f"deployable spec {text!r}: write <backend>:<bits>:<group size or row>:<scope>", code=Code.EDIT_SPEC_INVALID
        )
    name, bits, group, scope = fields
    facts = BACKENDS.get(name)
    if facts is None:
        raise UsageError(
            f"deployable spec {text!r}: unknown backend {name!r}; known: {', '.join(BACKENDS)}",
            code=Code.EDIT_SPEC_INVALID,
        )
    if bits != str(facts.bits):
        raise UsageError(
            f"deployable spec {text!r}: {name} packs {facts.bits} bits, not {bits!r}", code=Code.EDIT_SPEC_INVALID
        )
    if group != ROW and (not facts.groups or re.fullmatch(r"[1-9][0-9]{0,6}", group) is None):
        allowed = "a whole number or row" if facts.groups else "row"
        raise UsageError(
            f"deployable spec {text!r}: the group size of {name} is {allowed}, not {group!r}",
            code=Code.EDIT_SPEC_INVALID,
        )
    return DeployableSpec(name, int(bits), None if group == ROW else int(group), parse_scope(scope, where=text))


def missing_packages(backend: str) -> list[str]:
    """Return the packages of a backend that are not installed; nothing is imported."""
    return [name for name in BACKENDS[backend].packages if importlib.util.find_spec(name) is None]
