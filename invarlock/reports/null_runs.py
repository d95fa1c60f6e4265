"""Null runs as documents: what they hold, and what a guard says of each of their changes.

A null run compares a baseline with harmless changes of itself on one draw of windows. Presets are derived from some,
and a run that was held out is judged by the preset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.guards.rmt import derive_rmt, derive_rmt_probe
from invarlock.guards.spectral import derive_spectral
from invarlock.guards.variance import derive_variance
from invarlock.metrics.perplexity import derive_drift
from invarlock.reports.derivation import contract_hash
from invarlock.statistics.intervals import weighted_mean
from invarlock.statistics.rounding import rounded

SCHEMA = "invarlock/null-run-v1"
# The windows of null run k are drawn with this much added to its seed, so that they are no case's own.
NULL_SEED = 1_000_000
FLOAT16 = "float16_round_trip"
RTN_SPEC = "quant_rtn:8:128:all"
JITTER_SHARE = 0.01
JITTER = "jitter:0.01:all"
CHANGES = (FLOAT16, RTN_SPEC, JITTER)
# A change that moves the loss by more than this, in nats a token, is not harmless, and nothing is learned from it.
HARMLESS_DELTA = 0.01


@dataclass(frozen=True)
class NullChange:
    """One harmless change of one null run, as far as limits follow from it.

    ``log_ratios`` are the spectral norms' by family, ``growths`` the edge risks' by family and ``probe_growths`` by
    module, ``deltas`` the losses' differences on the final windows.
    """

    name: str
    log_ratios: Mapping[str, Sequence[float]]
    growths: Mapping[str, float]
    probe_growths: Mapping[str, float]
    deltas: Sequence[float]
    drift: float


def null_changes(document: Mapping[str, Any], policy: Mapping[str, Any]) -> list[NullChange]:
    """Return what limits follow from, of each change of a null run that holds to its format.

    Args:
        document: the null run.
        policy: of the tier; what is returned does not depend on its limits.
    """
    found = []
    for change in document["changes"]:
        spectra: dict[str, list[float]] = {}
        for row in derive_spectral(_pair(document, change, "spectral"), policy["spectral"])["modules"].values():
            if row["log_ratio"] is not None:
                spectra.setdefault(row["family"], []).append(row["log_ratio"])
        families = derive_rmt(_pair(document, change, "rmt"), policy["rmt"])["families"]
        probed = derive_rmt_probe(_pair(document, change, "rmt_probe"), policy["rmt"])["modules"]
        parts = _windows(document, change)
        drift = derive_drift(parts["preview"], parts["final"])
        assert drift is not None
        found.append(
            NullChange(
                name=change["name"],
                log_ratios=spectra,
                growths={name: row["growth"] for name, row in families.items() if row["growth"] is not None},
                probe_growths={name: growth for name, growth in probed.items() if growth is not None},
                deltas=_deltas(parts["final"]),
                drift=drift,
            )
        )
    return found


def guard_signals(document: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for each change of a null run, every guard and gate that says something is wrong.

    Each is a false alarm. A guard that only warns counts too.

    Args:
        document: the null run.
        policy: the resolved policy.
    """
    limits = policy["primary_metric"]
    low, high = limits["drift_band"]
    bootstrap = {"replicates": limits["replicates"], "alpha": limits["alpha"], "seed": document["seeds"]["windows"]}
    signals = {}
    for change in document["changes"]:
        parts = _windows(document, change)
        spectral = derive_spectral(_pair(document, change, "spectral"), policy["spectral"])
        rmt = derive_rmt(_pair(document, change, "rmt"), policy["rmt"])
        probe = derive_rmt_probe(_pair(document, change, "rmt_probe"), policy["rmt"])
        variance = derive_variance(_pair(document, change, "variance"), policy["variance"], parts["final"], bootstrap)
        drift = derive_drift(parts["preview"], parts["final"])
        mean = weighted_mean(_deltas(parts["final"]), parts["final"]["token_counts"])
        raised = {
            "primary_metric": mean > math.log(limits["ratio_limit"]),
            "drift": drift is None or not low <= drift <= high,
            "spectral": spectral["status"] != "pass",
            "rmt": rmt["status"] != "pass",
            "rmt_probe": probe["detected"],
            "variance": variance["status"] != "pass",
        }
        signals[change["name"]] = [name for name, is_raised in raised.items() if is_raised]
    return signals


def null_run_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a null run that holds to its schema: how it was measured, and whether it is harmless."""
    if document["seeds"]["windows"] != document["seeds"]["changes"]:
        yield "seeds: windows and changes have one seed"
    names = [change["name"] for change in document["changes"]]
    if names != list(CHANGES):
        yield f"changes: {names}, a null run has {list(CHANGES)}"
        return
    sides = {"baseline": document, **{change["name"]: change for change in document["changes"]}}
    for guard, contract in document["measurement_contracts"].items():
        wanted = contract_hash(contract)
        for side, block in sides.items():
            for key in (guard, "rmt_probe") if guard == "rmt" else (guard,):
                if block[key]["measurement_contract_hash"] != wanted:
                    yield f"{side}.{key}: was not measured by the measurement contract"
    windows, dataset = document["windows"], document["dataset"]
    ids = [*windows["preview"]["window_ids"], *windows["final"]["window_ids"]]
    if len(set(ids)) != len(ids):
        yield "windows: one was scored twice"
    for part in ("preview", "final"):
        counts = windows[part]["token_counts"]
        lengths = {len(values) for values in windows[part].values()}
        lengths |= {len(change["logloss"][part]) for change in document["changes"]}
        if lengths != {dataset["windows"][part]}:
            yield f"windows.{part}: not the number of windows that the dataset says"
        elif any(count != dataset["seq_len"] - 1 for count in counts):
            yield f"windows.{part}.token_counts: every window has {dataset['seq_len'] - 1} predicted tokens"
    if any(len(values) == 0 for values in (windows["preview"]["window_ids"], windows["final"]["window_ids"])):
        yield "windows: none was scored"
    yield from _harm(document)


def _harm(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a change is not one to learn from: something could not be measured, or it did harm."""
    for change in document["changes"]:
        losses = [loss for part in ("preview", "final") for loss in change["logloss"][part]]
        losses += [loss for part in ("preview", "final") for loss in document["windows"][part]["logloss"]]
        if any(loss is None for loss in losses):
            yield f"{change['name']}: a loss is not finite"
            continue
        pairs = zip(change["logloss"]["final"], document["windows"]["final"]["logloss"], strict=False)
        deltas = [own - base for own, base in pairs]
        mean = math.fsum(deltas) / len(deltas) if deltas else 0.0
        if abs(mean) > HARMLESS_DELTA:
            yield f"{change['name']}: moves the loss by {mean:.4g}, a harmless change by at most {HARMLESS_DELTA:g}"
        for key in ("spectral", "rmt", "rmt_probe"):
            before, after = document[key]["modules"], change[key]["modules"]
            if not before or before.keys() != after.keys():
                yield f"{change['name']}.{key}: not of the modules of the baseline"


def _pair(document: Mapping[str, Any], change: Mapping[str, Any], key: str) -> dict[str, Any]:
    pair = {"baseline": document[key], "subject": change[key]}
    return {**pair, "changes": change["weight_changes"]} if key == "spectral" else pair


def _windows(document: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return ``evaluation_windows`` of a change, as a report has them."""
    return {
        part: {
            **document["windows"][part],
            "baseline_logloss": document["windows"][part]["logloss"],
            "logloss": change["logloss"][part],
        }
        for part in ("preview", "final")
    }


def _deltas(part: Mapping[str, Any]) -> list[float]:
    return [rounded(own - base) or 0.0 for own, base in zip(part["logloss"], part["baseline_logloss"], strict=True)]
