"""The tensors of the baseline that a checkpoint lacks, from the raw facts of both; it is loaded only without any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.judgement.expectations import is_dropped

Facts = Mapping[str, Any]


def stated_sizes(side: Facts) -> Facts:
    """Return what the config of a side states, from both places where its facts have it."""
    return {**side["configuration"]["config"], **side["config"]}


def missing_tensors(
    baseline: Facts, subject: Facts, layers: int | None = None, experts: int | None = None
) -> list[str]:
    """Return the tensors that a baseline has and a subject does not, by name.

    Where the subject is declared to have so many ``layers`` or ``experts``, what later ones have is not missing.

    An output head that only one of the two stores may be tied in the other, and is not missing; nor is a tensor
    that exists in an unreadable form. ``invariants`` reports both separately.
    """
    heads = {baseline["head"], subject["head"]}
    unreadable = {defect["tensor"] for defect in subject["defects"]}
    missing = baseline["tensors"].keys() - subject["tensors"].keys() - heads - unreadable
    return sorted(name for name in missing if not is_dropped(name, layers, experts))
