"""The tensors of the baseline that a checkpoint lacks, from raw facts; a checkpoint that lacks any is not loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.judgement.expectations import is_dropped

Facts = Mapping[str, Any]


def stated_sizes(side: Facts) -> Facts:
    """Return the fields of a side's config, merged from the two places where its facts store them."""
    return {**side["configuration"]["config"], **side["config"]}


def missing_tensors(
    baseline: Facts, subject: Facts, layers: int | None = None, experts: int | None = None
) -> list[str]:
    """Return the names of the tensors that a baseline has and a subject lacks.

    If the subject is declared to have only so many ``layers`` or ``experts``, tensors of later ones are not missing.

    An output head that only one side stores may be tied on the other side, and is not missing; neither is a tensor that
    exists in an unreadable form. ``invariants`` reports both separately.
    """
    heads = {baseline["head"], subject["head"]}
    unreadable = {defect["tensor"] for defect in subject["defects"]}
    missing = baseline["tensors"].keys() - subject["tensors"].keys() - heads - unreadable
    return sorted(name for name in missing if not is_dropped(name, layers, experts))
