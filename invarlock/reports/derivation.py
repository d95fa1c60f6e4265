"""Deriving a complete report from raw measurements by pure functions.

Example::

    report = compose(raw)          # when it is written
    assert report == compose(strip(report))   # when it is verified

``strip`` removes every derived field, ``compose`` computes it again; a field that changes in this round trip does not
follow from the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from invarlock.documents.json_object import JsonObject
from invarlock.documents.reports import Report
from invarlock.guards import BY_NAME, GUARD_NAMES
from invarlock.jsonio import digest_document
from invarlock.judgement.context import Context
from invarlock.judgement.null_level import is_at_null_level
from invarlock.metrics import METRICS
from invarlock.metrics.fidelity import CHANGE
from invarlock.metrics.perplexity import window_statistics
from invarlock.reports.gates import judge_gates
from invarlock.reports.policy import policy_digest, resolve_policy

SCHEMA_VERSION = "v1"
# Blocks that are derived; guards and metrics keep their raw part, dataset and policy_provenance lose one key each.
DERIVED_KEYS = ("run_id", *(metric.name for metric in METRICS), "resolved_policy", "validation", "assurance")
# The reason why guards do not judge a served subject.
SERVED_REASON = "the subject is served: its weights, activations and configuration cannot be seen"
GUARD_RAW_KEYS = ("raw", "measurement_contract")
# Kinds of an equivalence whose modules are pairs: a scale removed from the first is multiplied into the second.
SCALES = ("key_scales", "value_scales", "unit_scales")
# The name that the adapter's reader gives to its storage.
ADAPTER = "a PEFT adapter"
# The relative error of one rounding to a type of safetensors: half a unit in the last place.
ROUNDOFF: Mapping[str, float] = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24}


def contract_hash(contract: Mapping[str, Any]) -> str:
    """Return the first 16 hex digits of the sha256 of a measurement contract."""
    return digest_document(contract).removeprefix("sha256:")[:16]


def run_id(model_id: str, case: str, digest: str, seeds: Mapping[str, Any]) -> str:
    """Return the 16 hex digits that identify a measurement by model, case, digest and seeds."""
    return digest_document([model_id, case, digest, dict(seeds)]).removeprefix("sha256:")[:16]


def subject_identity(subject: Mapping[str, Any]) -> str:
    """Return the digest of a subject's files; for a served subject, the digest of the known facts about it."""
    return digest_document(subject["served"]) if "served" in subject else str(subject["digest"])


def baseline_run_id(baseline: Mapping[str, Any]) -> str:
    """Return the ``run_id`` of a baseline's own report."""
    seeds = {str(draw["run"]): draw["seeds"] for draw in baseline["draws"]}
    return run_id(baseline["meta"]["model_id"], "baseline", baseline["baseline"]["digest"], seeds)


def bootstrap(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bootstrap parameters of a report's intervals: ``replicates``, ``alpha``, ``seed``."""
    policy = report["resolved_policy"]["primary_metric"]
    return {
        "replicates": policy["replicates"],
        "alpha": policy["alpha"],
        "seed": report["meta"]["seeds"]["bootstrap"],
    }


def context(report: Mapping[str, Any]) -> Context:
    """Return the parts of a report that guards and metrics may read besides their own measurements and limits."""
    intent = report["resolved_policy"]["fidelity"]["intent"]
    blocks = {metric.name: report[metric.name] for metric in METRICS if metric.name in report}
    return Context(
        windows=report["evaluation_windows"],
        bootstrap=bootstrap(report),
        edit=report["edit"],
        not_scored=report["scoring"]["not_scored"],
        equivalence=frozenset(row["kind"] for row in report.get("equivalence", ())),
        task_records=report.get("task_records"),
        scaled_by=_scaled_by(report.get("equivalence", ())),
        rounding=_rounding(report.get("invariants", {}).get("raw", {})),
        low_rank=intent == CHANGE or _is_adapter(report.get("invariants", {}).get("raw", {})),
        intent=intent,
        raws={metric.name: report[metric.name]["raw"] for metric in METRICS if metric.has_raw},
        blocks=blocks,
        unchanged=is_at_null_level(blocks.get("fidelity"), report["resolved_policy"]["fidelity"]["null_level"]),
    )


def _scaled_by(equivalence: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return each matrix that received scales with the matrix from which the scales were removed."""
    found: dict[str, str] = {}
    for row in equivalence:
        if row["kind"] in SCALES:
            found |= dict(zip(row["modules"][1::2], row["modules"][::2], strict=False))
    # keys and queries may be rows of the same matrix
    return {name: source for name, source in found.items() if name != source}


def _is_adapter(facts: Mapping[str, Any]) -> bool:
    return "subject" in facts and facts["subject"]["storage"]["format"] == ADAPTER


def _rounding(facts: Mapping[str, Any]) -> float:
    """Return the largest unit roundoff of the types in which a side stores a tensor."""
    dtypes = {tensor["dtype"] for side in facts.values() for tensor in side["tensors"].values()}
    return max((ROUNDOFF.get(dtype, 0.0) for dtype in dtypes), default=0.0)


def strip(report: Mapping[str, Any]) -> JsonObject:
    """Return the raw part of a report; its values are shared with the report, not copied."""
    raw = {key: value for key, value in report.items() if key not in (*DERIVED_KEYS, *GUARD_NAMES)}
    windows = _without(report["dataset"]["windows"], "stats")
    raw["dataset"] = {**report["dataset"], "windows": windows}
    raw["policy_provenance"] = _without(report["policy_provenance"], "policy_digest")
    for guard in GUARD_NAMES:
        kept = {key: value for key, value in report.get(guard, {}).items() if key in GUARD_RAW_KEYS}
        if kept:
            raw[guard] = kept
    for metric in METRICS:
        if metric.has_raw:
            raw[metric.name] = {"raw": report[metric.name]["raw"]}
    return raw


def _without(block: Mapping[str, Any], name: str) -> JsonObject:
    return {key: value for key, value in block.items() if key != name}


def compose(raw: Mapping[str, Any]) -> Report:
    """Return the report that follows from raw measurements; raw values are shared, not copied.

    Raises:
        UsageError: when the tier, the profile or an override is unknown.
        KeyError, TypeError, ValueError: when the raw part does not match the report's schema.
    """
    report = dict(raw)
    meta = raw["meta"]
    report["run_id"] = run_id(
        meta["model_id"], f"{meta['scenario']}/{meta['run']}", subject_identity(raw["subject"]), meta["seeds"]
    )
    provenance, windows = raw["policy_provenance"], raw["evaluation_windows"]
    policy = resolve_policy(
        provenance["tier"], raw["context"]["profile"], provenance["overrides"], provenance["preset_limits"]
    )
    requested = {part: raw["dataset"]["windows"][part] for part in ("preview", "final")}
    statistics = window_statistics(windows, requested)
    report["dataset"] = {**raw["dataset"], "windows": {**raw["dataset"]["windows"], "stats": statistics}}
    report["policy_provenance"] = {**provenance, "policy_digest": policy_digest(policy)}
    report["resolved_policy"] = policy
    for metric in METRICS:
        measured = {"raw": raw[metric.name]["raw"]} if metric.has_raw else {}
        report[metric.name] = {**measured, **metric.judge(windows, policy[metric.name], context(report))}
    for guard in GUARD_NAMES:
        report[guard] = _guard_block(guard, report, policy)
    gates = judge_gates(report, policy)
    report["validation"] = {gate.flag: gate.holds for gate in gates}
    blocking = [gate.line for gate in gates if gate.blocks and not gate.holds]
    report["assurance"] = {"mode": "report", "verdict": "FAIL" if blocking else "PASS", "blocking_reasons": blocking}
    return cast("Report", report)


def _guard_block(guard: str, report: Mapping[str, Any], policy: Mapping[str, Any]) -> JsonObject:
    if guard not in report["guards"]:
        reason = SERVED_REASON if "served" in report["subject"] else "this guard was not run"
        return {"status": "not_evaluated", "passed": None, "reason": reason}
    block = report[guard]
    derived = BY_NAME[guard].judge(block["raw"], policy.get(guard, {}), context(report))
    return {**block, "measurement_contract_hash": contract_hash(block["measurement_contract"]), **derived}
