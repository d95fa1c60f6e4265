"""From raw measurements to a whole report, by pure functions.

Example::

    report = compose(raw)          # when it is written
    assert report == compose(strip(report))   # when it is verified

``strip`` takes away every derived field, ``compose`` puts it back; what cannot be put back as it was is not derived
from the measurements.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from invarlock.jsonio import digest_document
from invarlock.reports.gates import judge_gates
from invarlock.reports.invariants import derive_invariants
from invarlock.reports.policy import policy_digest, resolve_policy
from invarlock.reports.primary_metric import derive_primary_metric, derive_tail, window_statistics
from invarlock.reports.spectral import derive_spectral

SCHEMA_VERSION = "v1"
GUARDS = ("invariants", "spectral", "rmt", "variance")
# Blocks that are derived as a whole; guards keep their raw part, dataset and policy_provenance lose one key each.
DERIVED_KEYS = ("primary_metric", "primary_metric_tail", "resolved_policy", "validation", "assurance")
GUARD_RAW_KEYS = ("raw", "measurement_contract")


def contract_hash(contract: Mapping[str, Any]) -> str:
    """Return the first 16 hex digits of the sha256 of a measurement contract."""
    return digest_document(contract).removeprefix("sha256:")[:16]


def strip(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw part of a report."""
    raw = copy.deepcopy({key: value for key, value in report.items() if key not in DERIVED_KEYS})
    raw["dataset"]["windows"].pop("stats", None)
    raw["policy_provenance"].pop("policy_digest", None)
    for guard in GUARDS:
        block = raw.pop(guard, {})
        kept = {key: block[key] for key in GUARD_RAW_KEYS if key in block}
        if kept:
            raw[guard] = kept
    return raw


def compose(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report that follows from raw measurements.

    Raises:
        UsageError: when tier, profile or an override is unknown.
        KeyError, TypeError, ValueError: when the raw part does not hold to the report's shape.
    """
    report = copy.deepcopy(dict(raw))
    provenance = report["policy_provenance"]
    policy = resolve_policy(provenance["tier"], report["context"]["profile"], provenance["overrides"])
    windows = report["evaluation_windows"]
    asked = {part: report["dataset"]["windows"][part] for part in ("preview", "final")}
    report["dataset"]["windows"]["stats"] = window_statistics(windows, asked)
    provenance["policy_digest"] = policy_digest(policy)
    report["resolved_policy"] = policy
    metric = derive_primary_metric(
        windows, policy["primary_metric"], report["meta"]["seeds"]["bootstrap"], report["scoring"]["not_scored"]
    )
    report["primary_metric"] = metric
    report["primary_metric_tail"] = derive_tail(windows, policy["primary_metric_tail"], metric["invalid"])
    for guard in GUARDS:
        report[guard] = _guard_block(guard, report, policy)
    gates = judge_gates(report, policy)
    report["validation"] = {gate.flag: gate.holds for gate in gates}
    blocking = [gate.line for gate in gates if gate.blocks and not gate.holds]
    report["assurance"] = {"mode": "report", "verdict": "FAIL" if blocking else "PASS", "blocking_reasons": blocking}
    return report


def _guard_block(guard: str, report: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    if guard not in report["guards"]:
        return {"status": "not_evaluated", "passed": None, "reason": "this guard was not run"}
    block = report[guard]
    derived = (
        derive_invariants(block["raw"]) if guard == "invariants" else derive_spectral(block["raw"], policy["spectral"])
    )
    return {**block, "measurement_contract_hash": contract_hash(block["measurement_contract"]), **derived}
