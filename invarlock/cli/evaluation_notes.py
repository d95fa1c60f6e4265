"""What ``invarlock evaluate`` adds to its results: facts about the two checkpoints that explain them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from invarlock.checkpoints.layout import find_gguf, is_adapter, tokenizer_files
from invarlock.guards.invariants import undeclared_changes

VOWELS = frozenset("aeiou")


def evaluation_notes(report: Mapping[str, Any], subject: Path | None) -> Iterator[str]:
    """Yield lines about a report: equal checkpoints, models of two kinds, undeclared sizes, a missing tokenizer.

    Args:
        report: the report.
        subject: the folder of the subject; None if it is served.
    """
    if report["subject"]["digest"] == report["baseline_ref"]["digest"]:
        yield "subject and baseline are the same checkpoint"
    raw = report["invariants"].get("raw")
    if raw is not None:
        yield from _about_structure(raw, report)
    if subject is not None and not (tokenizer_files(subject) or is_adapter(subject) or find_gguf(subject)):
        yield "the subject has no tokenizer files; the baseline's were used"


def _about_structure(raw: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    kinds = [raw[side]["config"].get("model_type") for side in ("baseline", "subject")]
    if kinds[0] != kinds[1]:
        baseline, subject = map(_model_of_kind, kinds)
        yield f"the baseline is {baseline}, the subject {subject}; was it made from this baseline?"
    elif report["scoring"]["not_scored"] is not None or report["invariants"]["passed"]:
        # a declaration would not help a subject that cannot be loaded
        return
    elif lacking := undeclared_changes(raw, report["edit"]):
        declared = " ".join(f"--expect {change}" for change in lacking)
        yield f"if the change of structure is intended, declare it: {declared}"


def _model_of_kind(kind: str | None) -> str:
    if kind is None:
        return "a model of an unknown kind"
    return f"{'an' if kind[:1].lower() in VOWELS else 'a'} {kind} model"
