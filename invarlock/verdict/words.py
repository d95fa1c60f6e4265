"""The words for a case's expected and observed outcome, used consistently in tables, pages and summaries.

Example::

    expected_words("must_fail")     # "must fail"
    seen_words(record)              # "fails" or "passes"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.verdict.detectors import signals

AS_EXPECTED = "as expected"
NOT_AS_EXPECTED = "NOT AS EXPECTED"
NO_REPORT = "NO REPORT"
# For each strictness of a scenario: the expectation of its cases, and the kind of subject.
EXPECTED = {
    "must_pass": "must pass",
    "must_fail": "must fail",
    "must_detect": "must be detected",
    "informational": "informational",
}
_SUBJECTS = {
    "must_pass": "this is an edit that must pass",
    "must_fail": "this is a destructive edit that must fail",
    "must_detect": "this is a fault that must be detected",
    "informational": "this case is informational and does not affect the verdict",
}


def expected_words(strictness: str) -> str:
    """Return the expectation of a case in two or three words."""
    return EXPECTED.get(strictness, strictness.replace("_", " "))


def subject_words(strictness: str) -> str:
    """Return the kind of subject that a case has, as a clause."""
    return _SUBJECTS.get(strictness, expected_words(strictness))


def seen_words(record: Mapping[str, Any]) -> str:
    """Return the outcome in a verdict's record in one or two words, whether or not it was expected."""
    strictness = record["strictness"]
    if strictness == "must_detect":
        return "detected" if record["detectors_hit"] else "not detected"
    if strictness == "informational":
        return "signals" if signals(record) else "no signal"
    return "passes" if record["gates_hold"] else "fails"


def is_neutral(record: Mapping[str, Any]) -> bool:
    """Return whether a record neither confirms nor contradicts an expectation."""
    return bool(record["passed"] and record["strictness"] == "informational")


def expectation_words(record: Mapping[str, Any]) -> str:
    """Say in two or three words whether a record is as expected; empty for an informational record that is."""
    return NOT_AS_EXPECTED if not record["passed"] else "" if is_neutral(record) else AS_EXPECTED
