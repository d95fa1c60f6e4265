"""Which tensors of its baseline a checkpoint lacks, by the raw facts of both: what decides whether it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]


def missing_tensors(baseline: Facts, subject: Facts) -> list[str]:
    """Return the tensors that a baseline has and a subject does not, by name.

    An output head that only one of the two stores may be tied in the other, and is not missing; neither is a tensor
    that is there in a form that cannot be read. ``invariants`` reports both as what they are.
    """
    heads = {baseline["head"], subject["head"]}
    unreadable = {defect["tensor"] for defect in subject["defects"]}
    return sorted(baseline["tensors"].keys() - subject["tensors"].keys() - heads - unreadable)
