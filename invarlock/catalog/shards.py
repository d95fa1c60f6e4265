"""Shards: the cases of a run divided into parts for separate machines.

Cases of one scenario on one model share their subject and stay together as a group. The division is derived from the
effective manifest only, so every machine, and the merge of their runs, computes the same division.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import UsageError
from invarlock.problems import Code

Group = tuple[str, str]
SCHEMA = "invarlock/shard-v1"


def divide(groups: Iterable[Group], shards: int) -> dict[Group, int]:
    """Return the shard, counted from 1, of each (model, scenario); ``groups`` has one entry per case.

    Groups are ordered by model, then by decreasing number of runs, and a shard takes every n-th group.
    After a model whose number of groups n divides, the count is shifted by one: otherwise the same shard would get the
    largest group of every model.
    """
    runs = Counter(groups)
    found: dict[Group, int] = {}
    start = 0
    for model in sorted({model for model, _ in runs}):
        own = sorted((group for group in runs if group[0] == model), key=lambda group: (-runs[group], group))
        found |= {group: (start + place) % shards + 1 for place, group in enumerate(own)}
        start += len(own) + (len(own) % shards == 0)
    return found


def shard_manifest(whole: EffectiveManifest, index: int, shards: int) -> EffectiveManifest:
    """Return the effective manifest of one shard, derived from the manifest of the whole run.

    Raises:
        UsageError: when the shard would be empty.
    """
    selection = whole["selection"]
    groups = divide(((case["model"], case["scenario"]) for case in selection["cases"]), shards)
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
