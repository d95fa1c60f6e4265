"""Detectors: predicates over a report that decide whether a defect was detected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from invarlock.documents import JsonObject
from invarlock.errors import DocumentError
from invarlock.guards import BY_NAME, GUARDS
from invarlock.judgement.detector import DetectorKind
from invarlock.metrics import METRICS
from invarlock.reports.policy import PARTS

Detector = Mapping[str, Any]
Report = Mapping[str, Any]

_METRICS = {metric.name: metric for metric in METRICS if metric.is_guarded}


def detect(detector: Detector, report: Report) -> JsonObject:
    """Return the detector with its measured value and whether it hit; ``report`` has probes under their names.

    Raises:
        DocumentError: when the detector's kind is unknown; this is an error, not a miss.
    """
    kind = detector["kind"]
    if kind not in _SEEN:
        raise DocumentError(f"detector kind {kind!r} is unknown; known: {', '.join(_SEEN)}")
    seen = _SEEN[kind](detector, report)
    return {**detector, "seen": seen, "hit": seen is not None and _hits(detector, seen)}


def guard_flags(report: Report) -> dict[str, bool | None]:
    """Return whether each core guard signals; None for a guard that was not evaluated."""
    validation = report["validation"]
    flags: dict[str, bool | None] = {
        name: not all(validation.get(flag, True) for flag in metric.flags) for name, metric in _METRICS.items()
    }
    return flags | {guard.name: guard.signals(report[guard.name]) for guard in GUARDS}


def primary_guard_hit(guard: str, report: Report) -> bool:
    """Return whether the primary guard of a scenario detected its defect.

    A signal in the guard's probe counts too.
    """
    if guard in _METRICS:
        return _METRICS[guard].detects(report["validation"])
    found = BY_NAME[guard]
    probed = found.probe is not None and bool(report.get(found.probe.name, {}).get("detected"))
    return found.detects(report[guard]) or probed


def _hits(detector: Detector, seen: Any) -> bool:
    if "allowed" in detector:
        return seen in detector["allowed"]
    if "min" in detector:
        return bool(seen >= detector["min"])
    if "min_new_modules" in detector:
        return bool(seen >= detector["min_new_modules"])
    return type(seen) is type(detector["expected"]) and bool(seen == detector["expected"])


def _new_modules(detector: Detector, report: Report) -> int | None:
    """Return the number of modules that the guard signals; the guard never signals the baseline's own modules."""
    found = BY_NAME[detector["guard"]].signalled_modules(report[detector["guard"]])
    return None if found is None else len(found)


_KINDS = (
    DetectorKind("validation_flag", lambda detector, report: report["validation"].get(detector["flag"])),
    DetectorKind("guard_signal_baseline_relative", _new_modules),
    *(kind for part in PARTS for kind in part.detectors),
    *(guard.probe.detector for guard in GUARDS if guard.probe is not None),
)
_SEEN: dict[str, Callable[[Detector, Report], Any]] = {kind.kind: kind.seen for kind in _KINDS}


def is_informational_stress(record: Mapping[str, Any]) -> bool:
    """Return whether a record belongs to a stress edit that does not affect the verdict."""
    return bool(record["category"] == "stress" and record["strictness"] == "informational")


def expects_a_signal(record: Mapping[str, Any]) -> bool:
    """Return whether a record's scenario expects a signal; a negative control expects none."""
    return bool(record["detectors"] or record["detectors_all_of"]) and record["intent"] != "negative_control"


def signals(record: Mapping[str, Any]) -> bool:
    """Return whether a guard signalled or the detectors of the scenario hit."""
    return bool(record["any_core_guard_flag"] or record["detectors_hit"])
