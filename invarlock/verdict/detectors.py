"""Detectors: predicates over a report that say whether a defect was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from invarlock.errors import DocumentError

Detector = Mapping[str, Any]
Report = Mapping[str, Any]

_PROBES: Mapping[str, str] = {"rmt": "rmt_probe", "variance": "ve_probe"}
CORE_GUARDS = ("primary_metric", "invariants", "spectral", "rmt", "variance")


def detect(detector: Detector, report: Report) -> dict[str, Any]:
    """Return the detector with what it saw and whether it hit; probes stand in ``report`` under their names.

    Raises:
        DocumentError: when its kind is unknown; that is an error, not a miss.
    """
    kind = detector["kind"]
    if kind not in _SEEN:
        raise DocumentError(f"detector kind {kind!r} is unknown; known: {', '.join(_SEEN)}")
    seen = _SEEN[kind](detector, report)
    return {**detector, "seen": seen, "hit": seen is not None and _hits(detector, seen)}


def guard_flags(report: Report) -> dict[str, bool | None]:
    """Return for each core guard whether it raised a signal; None where it was not evaluated."""
    flags: dict[str, bool | None] = {
        "primary_metric": not all(
            report["validation"][flag] for flag in ("primary_metric_acceptable", "preview_final_drift_acceptable")
        )
    }
    for guard in CORE_GUARDS[1:]:
        status = report[guard]["status"]
        flags[guard] = None if status == "not_evaluated" else status != "pass"
    return flags


def primary_guard_hit(guard: str, report: Report) -> bool:
    """Tell whether the guard that a scenario is meant for saw its defect.

    A probe beside the report counts as its guard. A signal of spectral is a capped module, whether or not there are
    more of them than the tier allows.
    """
    if guard == "primary_metric":
        return report["validation"]["primary_metric_acceptable"] is False
    if guard == "invariants":
        return bool(report["invariants"]["status"] == "fail")
    if guard == "spectral":
        return _caps(report) > 0
    return report[guard]["status"] in ("warn", "fail") or bool(report.get(_PROBES[guard], {}).get("detected"))


def _caps(report: Report) -> int:
    return int(report["spectral"].get("metrics", {}).get("caps_applied", 0))


def _hits(detector: Detector, seen: Any) -> bool:
    if "allowed" in detector:
        return seen in detector["allowed"]
    if "min" in detector:
        return bool(seen >= detector["min"])
    if "min_new_modules" in detector:
        return bool(seen >= detector["min_new_modules"])
    return type(seen) is type(detector["expected"]) and bool(seen == detector["expected"])


def _new_modules(detector: Detector, report: Report) -> int | None:
    """Return how many modules the guard signals that the baseline does not: the baseline signals none of its own."""
    metrics = report[detector["guard"]].get("metrics", {})
    found = metrics.get("capped_modules", metrics.get("violating_families"))
    return None if found is None else len(found)


_SEEN: dict[str, Callable[[Detector, Report], Any]] = {
    "validation_flag": lambda detector, report: report["validation"].get(detector["flag"]),
    "primary_metric": lambda detector, report: report["primary_metric"].get(detector["field"]),
    "invariants_status": lambda detector, report: report["invariants"]["status"],
    "spectral_caps_applied": lambda detector, report: _caps(report),
    "guard_signal_baseline_relative": _new_modules,
    "rmt_probe": lambda detector, report: report.get("rmt_probe", {}).get(detector["field"]),
    "ve_probe": lambda detector, report: report.get("ve_probe", {}).get(detector["field"]),
}


def is_informational_stress(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is of a stress edit that decides no verdict."""
    return bool(record["category"] == "stress" and record["strictness"] == "informational")


def expects_a_signal(record: Mapping[str, Any]) -> bool:
    """Tell whether a record's scenario says what should be seen; a negative control says that nothing should."""
    return bool(record["detectors"] or record["detectors_all_of"]) and record["intent"] != "negative_control"


def signals(record: Mapping[str, Any]) -> bool:
    """Tell whether a guard signalled or the detectors of the scenario hit."""
    return bool(record["any_core_guard_flag"] or record["detectors_hit"])
