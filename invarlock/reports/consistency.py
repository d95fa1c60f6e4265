"""Contradictions between the raw measurements of one report.

Each check is a relation that holds for every honest report: bytes determine tensors, tensors determine losses. Values
that may differ in an honest run (a fault in an expert that no window uses, a custom subject, a GPU's rounding) are not
checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.catalog.deployables import BACKENDS
from invarlock.catalog.edit_specs import EDIT_NAMES
from invarlock.metrics import METRICS
from invarlock.problems import Code, Problem

NOOP = "noop"
DENSE = "dense"
CUSTOM = "custom"
SERVED = "served"
# The largest difference in a window's loss between two passes of one model, in nats: bfloat16 on a GPU, with a margin.
SAME_MODEL_NATS = 0.05
# A smaller change of a matrix may round to the same losses; one step of float32 is 6e-8.
MEASURABLE_CHANGE = 1e-5


def consistency_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the contradictions between the raw measurements of a report.

    Args:
        report: a report that matches its schema; guards that did not run have no raw part.
    """
    yield from _served_problems(report)
    yield from _digest_problems(report)
    yield from _loss_problems(report)
    if "raw" in report["invariants"]:
        for side in ("baseline", "subject"):
            yield from _tie_problems(f"invariants.raw.{side}", report["invariants"]["raw"][side])
            yield from _storage_problems(f"invariants.raw.{side}", report["invariants"]["raw"][side])
        yield from _scoring_problems(report)
    for metric in METRICS:
        yield from metric.consistency_problems(report)
    if not any(value for name, value in report["telemetry"].items() if name.endswith("_seconds")):
        yield _contradiction("telemetry", "no stage took any time")


def _served_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield contradictions between the kind of subject (files or a server) and the measurements that the report has."""
    subject = report["subject"]
    served = "served" in subject
    if served != (subject["digest"] is None):
        yield _contradiction("subject.digest", "a served subject has none, any other has one")
    if served != (report["scoring"]["scored_as"]["subject"] == SERVED):
        yield _contradiction("scoring.scored_as.subject", f"{SERVED} is what a subject behind a server is scored as")
    if not served:
        return
    for field in ("guards", "equivalence", "equivalence_not_used"):
        if report.get(field):
            yield _contradiction(field, "a served subject has neither weights nor activations that can be seen")
    if report["scoring"]["not_scored"] is not None:
        yield _contradiction("scoring.not_scored", "a served subject without answers has no report")
    if report["edit"]["name"] != CUSTOM:
        yield _contradiction("edit.name", f"what was done to a served subject is {CUSTOM}")


def _digest_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield contradictions between the digests of the checkpoints and the edit, or the digests of the tensors."""
    name, same = report["edit"]["name"], _same_checkpoint(report)
    if name == NOOP and not same:
        yield _contradiction("subject.digest", "not the baseline's, though nothing was edited")
    if same and name not in (*EDIT_NAMES, *BACKENDS, CUSTOM):
        yield _contradiction("subject.digest", f"the baseline's, though the fault {name} changes a checkpoint")
    if same and "raw" in report["invariants"]:
        before, after = (report["invariants"]["raw"][side]["tensors"] for side in ("baseline", "subject"))
        if before != after:
            yield _contradiction(
                "invariants.raw.subject.tensors", "not the baseline's, though the checkpoints have one digest"
            )


def _loss_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield contradictions between losses and digests: equal models have equal losses, a changed one does not."""
    pairs = [
        (own, base)
        for part in ("preview", "final")
        for own, base in zip(
            report["evaluation_windows"][part]["logloss"],
            report["evaluation_windows"][part]["baseline_logloss"],
            strict=True,
        )
    ]
    if _same_checkpoint(report):
        tolerance = 0.0 if report["context"]["determinism"] == "strict" else SAME_MODEL_NATS
        if any(own is None or abs(own - base) > tolerance for own, base in pairs):
            yield _contradiction(
                "evaluation_windows", "other losses than the baseline's, though the checkpoints have one digest"
            )
    elif (
        report["edit"]["name"] in EDIT_NAMES and _measurably_changed(report) and all(own == base for own, base in pairs)
    ):
        yield _contradiction(
            "evaluation_windows", "exactly the baseline's losses, though matrices of the model changed"
        )


def _measurably_changed(report: Mapping[str, Any]) -> bool:
    changes = report["spectral"].get("raw", {}).get("changes", {})
    return any((change["relative"] or 0) > MEASURABLE_CHANGE for change in changes.values())


def _same_checkpoint(report: Mapping[str, Any]) -> bool:
    return bool(report["subject"]["digest"] == report["baseline_ref"]["digest"])


def _tie_problems(where: str, facts: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem if the digests of embedding and head contradict the claim that they have equal values."""
    embedding, head = (facts["tensors"].get(facts[role]) for role in ("embedding", "head"))
    if embedding is None or head is None or embedding["dtype"] != head["dtype"]:
        return
    same = embedding["digest"] == head["digest"] and embedding["shape"] == head["shape"]
    if facts["tied_by_value"] != same:
        yield _contradiction(
            f"{where}.tied_by_value", f"{facts['tied_by_value']}, and the digests of embedding and head say otherwise"
        )


def _contradiction(field: str, message: str) -> Problem:
    return Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", field, message)


def _storage_problems(where: str, facts: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield contradictions among the sizes of a checkpoint, or between them and its tensors."""
    where = f"{where}.storage"
    storage, tensors = facts["storage"], facts["tensors"].values()
    # like the measurement, this counts tensors with floating-point dtypes, not packed codes
    weights = sum(math.prod(row["shape"]) for row in tensors if row["dtype"].startswith(("F", "BF")))
    if storage["weights"] != weights:
        yield _contradiction(f"{where}.weights", f"{storage['weights']}, and its tensors have {weights}")
    if storage["bits_per_weight"] != 8 * storage["stored_bytes"] / max(storage["weights"], 1):
        yield _contradiction(f"{where}.bits_per_weight", f"{storage['bits_per_weight']}, not bytes over weights")
    if storage["packed_weights"] > storage["weights"] or storage["packed_bytes"] > storage["stored_bytes"]:
        yield _contradiction(where, "more is packed than there is")
    if storage["quantisation"] is None:
        if storage["packed_weights"] or storage["packed_bytes"] or storage["unpacked_modules"] or facts["defects"]:
            yield _contradiction(f"{where}.quantisation", "none, though weights are packed")
        if storage["format"] != DENSE:
            yield _contradiction(f"{where}.format", f"{storage['format']}, and nothing is packed")
    elif storage["format"] == DENSE:
        yield _contradiction(f"{where}.format", f"{DENSE}, and weights are packed")


def _scoring_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem if the claimed scoring of a side is impossible for its storage."""
    raw, scored_as = report["invariants"]["raw"], report["scoring"]["scored_as"]
    if raw["baseline"]["storage"]["quantisation"] is not None:
        yield _contradiction("invariants.raw.baseline.storage", "packed, and a baseline is dense")
    if scored_as["subject"] != "native" and raw["subject"]["storage"]["quantisation"] is None:
        yield _contradiction("scoring.scored_as.subject", f"{scored_as['subject']}, and nothing of it is packed")
