"""Shards: the cases of a run divided into parts for separate machines.

Cases of one scenario on one model share their subject and stay together as a group. The division is derived from the
effective manifest and the sizes of its models only, so every machine, and the merge of their runs, computes the same
division.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from invarlock.catalog.cases import Case, planned_edit
from invarlock.catalog.costs import Costs, ModelSize
from invarlock.catalog.models import CALIBRATION_RUNS
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import UsageError
from invarlock.problems import Code

Group = tuple[str, str]
SCHEMA = "invarlock/shard-v2"
# The longest shard's length is found by this many halvings of an interval: exact to a billionth of all work.
STEPS = 30


def divide(groups: Mapping[Group, float], baselines: Mapping[str, float], shards: int) -> dict[Group, int]:
    """Return the shard, counted from 1, of each (model, scenario), such that the longest shard is short.

    Shards are filled one after the other, model by model, so that few shards measure the baseline of the same model.
    Bisection finds the smallest length limit with which all groups fit.

    Args:
        groups: the seconds of the cases of each group.
        baselines: the seconds that each shard with cases of a model needs for the model's baseline.
        shards: the number of shards.
    """
    order = sorted({model for model, _ in groups}, key=lambda model: (-baselines[model], model))
    own = {
        model: sorted((group for group in groups if group[0] == model), key=lambda group: (-groups[group], group))
        for model in order
    }
    low, high = 0.0, sum(groups.values()) + sum(baselines.values())
    best, shortest = _fill(own, groups, baselines, shards, high)
    for _ in range(STEPS):
        limit = (low + high) / 2
        found, longest = _fill(own, groups, baselines, shards, limit)
        if longest < shortest:
            best, shortest = found, longest
        low, high = (low, limit) if longest <= limit else (limit, high)
    return best


def _fill(
    own: Mapping[str, Sequence[Group]],
    groups: Mapping[Group, float],
    baselines: Mapping[str, float],
    shards: int,
    limit: float,
) -> tuple[dict[Group, int], float]:
    """Return a division whose shards, except the last, are filled up to a limit, and the seconds of the longest.

    A shard takes the longest groups that still fit, and at least one group. At least as many groups are left over as
    there are empty shards.
    """
    found: dict[Group, int] = {}
    shard, length, longest = 1, 0.0, 0.0
    for model, waiting in own.items():
        left, baseline = list(waiting), baselines[model]
        while left:
            fits = next((group for group in left if length + baseline + groups[group] <= limit), None)
            if length and shard < shards and (fits is None or len(groups) - len(found) <= shards - shard):
                shard, length, baseline = shard + 1, 0.0, baselines[model]
                continue
            group = fits or left[0]
            left.remove(group)
            found[group] = shard
            length += baseline + groups[group]
            baseline, longest = 0.0, max(longest, length)
    return found, longest


def division(whole: EffectiveManifest, sizes: Mapping[str, ModelSize], shards: int) -> dict[Group, int]:
    """Return the shard of each (model, scenario) of a run, by its manifest and the sizes of its models."""
    scenarios = {row["id"]: row for row in whole["scenarios"]}
    cases = [(row["model"], row["scenario"], row["run"]) for row in whole["selection"]["cases"]]
    edits = {(model, scenario): planned_edit(scenarios[scenario], model) for model, scenario, _ in cases}
    return _divided(cases, edits, sizes, shards)


def divide_cases(cases: Sequence[Case], shards: int) -> dict[Group, int]:
    """Return the shard of each (model, scenario) of all cases of a run."""
    rows = [(case.model.id, case.scenario.id, case.run) for case in cases]
    edits = {
        row[:2]: planned_edit(case.scenario.document, case.model.id) for row, case in zip(rows, cases, strict=True)
    }
    return _divided(rows, edits, {case.model.id: ModelSize.of(case.model) for case in cases}, shards)


def _divided(
    cases: Sequence[tuple[str, str, int]], edits: Mapping[Group, str], sizes: Mapping[str, ModelSize], shards: int
) -> dict[Group, int]:
    costs = Costs()
    groups: defaultdict[Group, float] = defaultdict(float)
    runs: defaultdict[str, int] = defaultdict(int)
    for model, scenario, run in cases:
        groups[model, scenario] += costs.subject_seconds(sizes[model], edits[model, scenario])
        runs[model] = max(runs[model], run)
    baselines = {model: costs.baseline_seconds(sizes[model], count + CALIBRATION_RUNS) for model, count in runs.items()}
    return divide(groups, baselines, shards)


def shard_manifest(
    whole: EffectiveManifest, sizes: Mapping[str, ModelSize], index: int, shards: int
) -> EffectiveManifest:
    """Return the effective manifest of one shard, derived from the manifest of the whole run.

    Raises:
        UsageError: when the shard would be empty.
    """
    selection = whole["selection"]
    groups = division(whole, sizes, shards)
    cases = [case for case in selection["cases"] if groups[case["model"], case["scenario"]] == index]
    if not cases:
        raise UsageError(
            f"--shard {index}/{shards}: only {len(groups)} subjects; use at most {len(groups)} shards",
            code=Code.SELECTION_INVALID,
        )
    models, scenarios = ({case[key] for case in cases} for key in ("model", "scenario"))
    return {
        **whole,
        "scenarios": [row for row in whole["scenarios"] if row["id"] in scenarios],
        "selection": {
            **selection,
            "models": [row for row in selection["models"] if row["model_id"] in models],
            "scenario_ids": sorted(scenarios),
            "expression": {**selection["expression"], "--shard": f"{index}/{shards}"},
            "cases": cases,
        },
    }
