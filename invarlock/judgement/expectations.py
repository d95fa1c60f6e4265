"""Structural changes that a user declares: ``vocabulary+8``, ``layers=28``, ``ffn=1024``, ``experts=48``.

Example::

    >>> parse_expectation("vocabulary+8").wanted(32000)
    32008

If the edit declares ``layers=28``, ``comparable(raw, edit)`` leaves out the baseline's blocks from number 28 on.

A declared change is not a violation. A declared change that was not made is a violation, as is an undeclared change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

from invarlock.errors import UsageError
from invarlock.problems import Code

# The width of the residual stream, and the numbers of hidden FFN units, query heads, key-value heads, and experts.
WIDTHS = ("width", "ffn", "heads", "kv-heads", "experts")
_FORM = re.compile(r"(vocabulary)(\+)([1-9][0-9]{0,8})|(layers|width|ffn|heads|kv-heads|experts)(=|-)([1-9][0-9]{0,5})")
FORMS = (
    "vocabulary+8 (rows at the end of the embedding), layers=28 or layers-2 (blocks at the end), width=512, ffn=1024, "
    "heads=12, kv-heads-2 or experts=48"
)
_NUMBER = re.compile(r"[0-9]{1,6}")
_EXPERT = re.compile(r"\bexperts\.([0-9]{1,6})\.")
_EXPERTS = re.compile(r"\bexperts\b")


@dataclass(frozen=True)
class Expectation:
    """One declared change: of the number of embedding rows, blocks or experts, or of a width."""

    what: Literal["vocabulary", "layers", "width", "ffn", "heads", "kv-heads", "experts"]
    sign: Literal["+", "-", "="]
    number: int

    def wanted(self, before: int) -> int:
        """Return the size that a subject must have if its baseline has ``before``."""
        return {"+": before + self.number, "-": before - self.number, "=": self.number}[self.sign]

    def __str__(self) -> str:
        return f"{self.what}{self.sign}{self.number}"


def parse_expectation(given: str) -> Expectation:
    """Parse a declared change, such as ``layers=28``.

    Raises:
        UsageError: when the text is not a declared change.
    """
    found = _FORM.fullmatch(given)
    if found is None:
        raise UsageError(f"--expect: {given[:40]!r} is not a structural change; write {FORMS}", code=Code.USAGE_INVALID)
    what, sign, number = (part for part in found.groups() if part is not None)
    return Expectation(cast(Any, what), cast(Any, sign), int(number))


def parse_expectations(given: Iterable[str]) -> tuple[Expectation, ...]:
    """Return the expectations, sorted by their subject matter.

    Raises:
        UsageError: when a text is not a declared change, or two declare the same size.
    """
    found = sorted((parse_expectation(text) for text in given), key=lambda one: one.what)
    for one, other in pairwise(found):
        if one.what == other.what:
            raise UsageError(
                f"--expect: {one} and {other} are about the same; leave one of them out", code=Code.USAGE_INVALID
            )
    return tuple(found)


def expected(edit: Mapping[str, Any] | None, what: str) -> Expectation | None:
    """Return what a report's ``edit`` declares about the vocabulary, the layers or a width, or None."""
    declared = () if edit is None else edit.get("expected", ())
    return next((one for one in map(parse_expectation, declared) if one.what == what), None)


def block_of(name: str) -> int | None:
    """Return the number of the block that a tensor or module belongs to; None if it belongs to none."""
    return next((int(part) for part in name.split(".") if _NUMBER.fullmatch(part)), None)


def is_dropped(name: str, layers: int | None, experts: int | None = None) -> bool:
    """Return whether a tensor or module belongs to a block or expert beyond the given numbers of them."""
    block, expert = block_of(name), _EXPERT.search(name)
    dropped = layers is not None and block is not None and block >= layers
    return dropped or (experts is not None and expert is not None and int(expert[1]) >= experts)


def _is_of_experts(name: str, row: Mapping[str, Any]) -> bool:
    """Return whether a module is an expert or the router, or all experts of a block together."""
    return row.get("family") == "router" or _EXPERTS.search(name) is not None


def comparable(raw: Mapping[str, Any], edit: Mapping[str, Any] | None, size: str | None = None) -> Mapping[str, Any]:
    """Return a guard's raw part without the modules that a declared change makes impossible to compare.

    These are the baseline's modules in dropped blocks that the subject lacks and, if a width is declared, the modules
    whose sizes differ between the sides; ``invariants`` judges whether the sizes are as declared. If the number of
    experts is declared, these are all experts and routers, because the remaining experts have new numbers. A guard that
    measures the sum of a block's experts, and no sizes, compares all modules of the remaining blocks.

    Args:
        raw: the guard's raw part; ``baseline`` and ``subject`` have their ``modules``. ``spectral`` also has
            ``changes``, and ``canonical`` with the three tables of the modules that are compared in another form.
        edit: the report's ``edit``.
        size: the key of a module's size; None if modules of any size are compared.
    """
    if size is not None and expected(edit, "experts") is not None:
        raw = _without_experts(raw)
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    declared = expected(edit, "layers")
    if declared is not None:
        blocks = [block for block in map(block_of, before) if block is not None]
        layers = declared.wanted(max(blocks, default=-1) + 1)
        before = {name: row for name, row in before.items() if name in after or not is_dropped(name, layers)}
    if size is not None and any(expected(edit, what) for what in WIDTHS):
        other = {name for name in before.keys() & after.keys() if before[name][size] != after[name][size]}
        before, after = ({name: row for name, row in side.items() if name not in other} for side in (before, after))
    return {
        **raw,
        "baseline": {**raw["baseline"], "modules": before},
        "subject": {**raw["subject"], "modules": after},
    }


def _without_experts(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    sides = {side: raw[side]["modules"] for side in ("baseline", "subject")}
    left_out = {name for rows in sides.values() for name, row in rows.items() if _is_of_experts(name, row)}

    def rest(rows: Mapping[str, Any]) -> dict[str, Any]:
        return {name: row for name, row in rows.items() if name not in left_out}

    kept: dict[str, Any] = {side: {**raw[side], "modules": rest(rows)} for side, rows in sides.items()}
    if "changes" in raw:
        kept["changes"] = rest(raw["changes"])
    if "canonical" in raw:
        kept["canonical"] = {table: rest(rows) for table, rows in raw["canonical"].items()}
    return {**raw, **kept}
