"""Null runs as documents: their content, and the guards that signal on each of their changes.

A null run compares a baseline with harmless changes of itself on one draw of windows. Presets are derived from null
runs, and the preset then judges a held-out run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.documents import JsonObject
from invarlock.guards import BY_NAME, GUARDS
from invarlock.guards.guard import Guard
from invarlock.judgement.context import Context
from invarlock.judgement.learning import NullChange
from invarlock.judgement.slices import text_mistakes
from invarlock.metrics import METRICS
from invarlock.problems import Code, Problem
from invarlock.reports.derivation import contract_hash

SCHEMA = "invarlock/null-run-v1"
# This offset is added to the seed of null run k, so that its windows differ from those of every case.
NULL_SEED = 1_000_000
FLOAT16 = "float16_round_trip"
RTN_SPEC = "quant_rtn:8:128:all"
JITTER_SHARE = 0.01
JITTER = "jitter:0.01:all"
CHANGES = (FLOAT16, RTN_SPEC, JITTER)
# A null run scores at most this many final windows of each text. Its time is nearly proportional to them, and more of
# them do not lead to better limits (docs/statistics.md).
NULL_WINDOWS = 16
# A change that moves the loss by more than this, in nats per token, is not harmless and is not used to derive limits.
# Jitter moves that of SmolLM2-135M by 0.003 to 0.012, depending on its seed and on the windows.
HARMLESS_DELTA = 0.02


def null_changes(document: Mapping[str, Any]) -> Iterator[NullChange]:
    """Yield the changes of a null run that matches its schema, each paired with the baseline."""
    for change in document["changes"]:
        yield NullChange(document, change, _windows(document, change))


def guard_signals(document: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for each change of a null run, every guard and gate that signals.

    Each signal is a false alarm. A guard that only warns counts too.

    Args:
        document: the null run.
        policy: the resolved policy.
    """
    limits = policy["primary_metric"]
    bootstrap = {"replicates": limits["replicates"], "alpha": limits["alpha"], "seed": document["seeds"]["windows"]}
    signals = {}
    for change in null_changes(document):
        raised: dict[str, bool] = {}
        for metric in METRICS:
            raised |= metric.null_signals(change, policy[metric.name])
        for guard in GUARDS:
            if guard.null is None:
                continue
            limits, context = policy.get(guard.name, {}), Context(change.windows, bootstrap)
            raised[guard.name] = bool(guard.signals(guard.judge(guard.null.raw(change), limits, context)))
            if guard.probe is not None and guard.probe.in_null_runs:
                probe = guard.probe.judge(change.pair(guard.probe.name), limits, context)
                raised[guard.probe.name] = bool(probe["detected"])
        signals[change.change["name"]] = [name for name, is_raised in raised.items() if is_raised]
    return signals


def _keys(guard: Guard) -> tuple[str, ...]:
    """Return the keys of a guard's measurements in a null run: its name, and the name of its probe."""
    return (guard.name, guard.probe.name) if guard.probe is not None and guard.probe.in_null_runs else (guard.name,)


def null_run_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems of a null run that matches its schema: wrong measurements, and harmful changes."""
    if document["seeds"]["windows"] != document["seeds"]["changes"]:
        yield _unusable("seeds", "windows and changes must have the same seed")
    names = [change["name"] for change in document["changes"]]
    if names != list(CHANGES):
        yield _unusable("changes", f"{names}, but a null run has {list(CHANGES)}")
        return
    sides = {"baseline": document, **{change["name"]: change for change in document["changes"]}}
    for guard, contract in document["measurement_contracts"].items():
        wanted = contract_hash(contract)
        for side, block in sides.items():
            for key in _keys(BY_NAME[guard]):
                if block[key]["measurement_contract_hash"] != wanted:
                    yield _unusable(f"{side}.{key}", "was not measured under the measurement contract")
    windows, dataset = document["windows"], _scored(document)
    ids = [*windows["preview"]["window_ids"], *windows["final"]["window_ids"]]
    if len(set(ids)) != len(ids):
        yield _unusable("windows", "a window was scored twice")
    for part in ("preview", "final"):
        lengths = {len(values) for values in windows[part].values()}
        lengths |= {len(change["logloss"][part]) for change in document["changes"]}
        # earlier versions scored preview windows too, and all final windows
        if lengths != {dataset["windows"][part]} and (part == "final" or lengths != {0}):
            yield _unusable(f"windows.{part}", "differs from the number of windows in dataset")
    scored = {part: block for part, block in windows.items() if part == "final" or block["window_ids"]}
    for field, message in text_mistakes(dataset, scored):
        yield _unusable(field, message)
    if not windows["final"]["window_ids"]:
        yield _unusable("windows", "no window was scored")
    for change in null_changes(document):
        for metric in METRICS:
            yield from metric.null_problems(change)
    yield from _harm(document)


def _harm(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the reasons why a change cannot be used to derive limits: a missing measurement, or harm."""
    for change in document["changes"]:
        losses = [loss for part in ("preview", "final") for loss in change["logloss"][part]]
        losses += [loss for part in ("preview", "final") for loss in document["windows"][part]["logloss"]]
        if any(loss is None for loss in losses):
            yield _unusable(change["name"], "a loss is not finite")
            continue
        pairs = zip(change["logloss"]["final"], document["windows"]["final"]["logloss"], strict=False)
        deltas = [own - base for own, base in pairs]
        mean = math.fsum(deltas) / len(deltas) if deltas else 0.0
        if abs(mean) > HARMLESS_DELTA:
            yield _unusable(
                change["name"], f"moves the loss by {mean:.4g}, but a harmless change by at most {HARMLESS_DELTA:g}"
            )
        for key in (key for guard in GUARDS if guard.null and guard.null.needs_modules for key in _keys(guard)):
            before, after = document[key]["modules"], change[key]["modules"]
            if not before or before.keys() != after.keys():
                yield _unusable(f"{change['name']}.{key}", "has other modules than the baseline")


def _scored(document: Mapping[str, Any]) -> JsonObject:
    """Return a null run's ``dataset`` with the windows that it scores instead of those of a case."""
    dataset: JsonObject = document["dataset"]
    if len(document["windows"]["final"]["window_ids"]) == dataset["windows"]["final"]:
        return dataset
    slices = [{**row, "windows": _fewer(row["windows"])} for row in dataset.get("slices", ())]
    if not slices:
        return {**dataset, "windows": _fewer(dataset["windows"])}
    final = sum(row["windows"]["final"] for row in slices)
    return {**dataset, "windows": {**dataset["windows"], "final": final}, "slices": slices}


def _fewer(windows: Mapping[str, int]) -> dict[str, int]:
    return {**windows, "final": min(windows["final"], NULL_WINDOWS)}


def _windows(document: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, JsonObject]:
    """Return ``evaluation_windows`` of a change in the form of a report."""
    return {
        part: {
            **document["windows"][part],
            "baseline_logloss": document["windows"][part]["logloss"],
            "logloss": change["logloss"][part],
        }
        for part in ("preview", "final")
    }


def _unusable(field: str, message: str) -> Problem:
    return Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", field, message)
