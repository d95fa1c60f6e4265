"""Checks that the spectral guard's raw measurements agree with each other and with the digests of the tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.problems import Code, Problem

Module = Mapping[str, Any]
# The fields that are the same in every form of a matrix.
_FIXED = ("family", "shape")


def raw_problems(where: str, raw: Module, others: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield the contradictions in the raw part of a report, ``raw``; ``others`` has the parts of the other guards."""
    yield from _canonical_problems(where, raw)
    yield from _change_problems(where, raw, others)


def _is_longer(own: list[int], base: list[int], measured: list[int]) -> bool:
    """Return whether a matrix has more rows than the baseline's, and was measured on the baseline's number of rows."""
    return len(own) == 2 and own[0] > base[0] and measured == base


def _change_problems(where: str, raw: Module, others: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield the matrices whose digests and measured changes contradict each other."""
    facts = others.get("invariants")
    if facts is None:
        return
    before, after = facts["baseline"]["tensors"], facts["subject"]["tensors"]
    matrices, edited = raw["baseline"]["modules"], raw["subject"]["modules"]
    for name in sorted({*matrices, *edited, *raw["changes"]}):
        measured = name in matrices and name in edited
        tensor = name.partition("[")[0]  # each expert of a stack is a matrix
        own, base = after.get(tensor), before.get(tensor)
        comparable = (
            measured
            and own is not None
            and base is not None
            and (own["shape"] == base["shape"] or _is_longer(own["shape"], base["shape"], edited[name]["shape"]))
        )
        changed = comparable and own["digest"] != base["digest"]
        if changed != (name in raw["changes"]):
            words = "it changed, and its change is left out" if changed else "a change of a matrix that has none"
            yield Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", f"{where}.changes.{name}", words)


def _canonical_problems(where: str, raw: Module) -> Iterator[Problem]:
    """Yield the canonical matrices that do not match stored ones."""
    if "canonical" not in raw:
        return
    parts = raw["canonical"]
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    for name in sorted({*parts["baseline"], *parts["subject"], *parts["changes"]}):
        if not all(name in parts[part] for part in ("baseline", "subject", "changes")):
            words = "it is not in each of baseline, subject and changes"
        elif name not in after or (name in before and before[name]["shape"] != after[name]["shape"]):
            words = "a matrix that the stored checkpoints do not share"
        elif any(parts[side][name][key] != after[name][key] for side in ("baseline", "subject") for key in _FIXED):
            words = "another family or shape than it is stored with"
        else:
            continue
        yield Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", f"{where}.canonical.{name}", words)
