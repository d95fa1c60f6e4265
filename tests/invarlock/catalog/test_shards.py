"""How a run is divided into shards."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invarlock.catalog.cases import Case, effective_manifest, plan_cases
from invarlock.catalog.costs import Costs, ModelSize
from invarlock.catalog.models import CALIBRATION_RUNS, CLEAN_RUNS, read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.catalog.shards import Group, divide, divide_cases, shard_manifest
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import UsageError

SUITES = Path(__file__).parents[3] / "suites"


MODELS = read_models(SUITES / "models.toml")
SIZES = {model.id: ModelSize.of(model) for model in MODELS.models.values()}


def cases_of(suite: str) -> list[Case]:
    return [case for case in plan_cases(MODELS, read_scenarios(SUITES / "scenarios.json")) if suite in case.suites]


def manifest(suite: str) -> EffectiveManifest:
    return effective_manifest(suite, cases_of(suite), read_scenarios(SUITES / "scenarios.json"), {"-m": suite})


def lengths(found: Mapping[Group, int], groups: Mapping[Group, float], baselines: Mapping[str, float]) -> list[float]:
    """Return the seconds of each shard, with the baselines of its models."""
    cases = {shard: sum(groups[group] for group in groups if found[group] == shard) for shard in found.values()}
    return [
        seconds + sum(baselines[model] for model in {group[0] for group in found if found[group] == shard})
        for shard, seconds in cases.items()
    ]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcde"), st.sampled_from("stuvwxyz")), st.floats(0.5, 5000.0), min_size=1
    ),
    st.lists(st.floats(0.5, 5000.0), min_size=5, max_size=5),
    st.integers(1, 12),
)
@settings(max_examples=200)
def test_every_group_is_in_one_shard_and_no_shard_is_empty_or_longer_than_a_simple_division(
    groups: dict[Group, float], seconds: list[float], shards: int
) -> None:
    baselines = dict(zip("abcde", seconds, strict=True))

    found = divide(groups, baselines, shards)

    assert found == divide(dict(reversed(groups.items())), baselines, shards)
    assert set(found) == set(groups)
    assert set(found.values()) == set(range(1, min(shards, len(groups)) + 1))
    every_nth = {group: place % shards + 1 for place, group in enumerate(sorted(groups))}
    longest = max(baselines[model] + length for (model, _), length in groups.items())
    assert max(lengths(found, groups, baselines)) <= max(lengths(every_nth, groups, baselines)) + longest


# of a suite and a number of shards: the longest shard times the number, in units of all work with one baseline a model
@pytest.mark.parametrize(
    ("suite", "shards", "most"),
    [("smoke", 2, 1.03), ("smoke", 5, 1.1), ("full", 2, 1.03), ("full", 3, 1.05), ("full", 4, 1.07), ("full", 8, 1.15)],
)
def test_the_shards_of_a_suite_are_its_whole_plan_once_and_take_about_the_same_time(
    suite: str, shards: int, most: float
) -> None:
    whole, costs, runs = manifest(suite), Costs(), CLEAN_RUNS + CALIBRATION_RUNS
    groups: Counter[Group] = Counter()
    for case in cases_of(suite):
        groups[case.model.id, case.scenario.id] += costs.case_seconds(case)  # type: ignore[assignment]  # of seconds
    baselines = {model: costs.baseline_seconds(SIZES[model], runs) for model, _ in groups}

    parts = [shard_manifest(whole, SIZES, index, shards)["selection"]["cases"] for index in range(1, shards + 1)]

    keys = [tuple(sorted(case.items())) for part in parts for case in part]
    assert sorted(keys) == sorted(tuple(sorted(case.items())) for case in whole["selection"]["cases"])
    found = {(case["model"], case["scenario"]): index for index, part in enumerate(parts, 1) for case in part}
    assert found == divide_cases(cases_of(suite), shards)
    work = sum(groups.values()) + sum(baselines.values())
    assert max(lengths(found, groups, baselines)) <= most * work / shards


def test_a_shard_has_its_models_and_scenarios_alone_and_says_which_it_is() -> None:
    whole = manifest("smoke")

    part = shard_manifest(whole, SIZES, 2, 29)

    selection = part["selection"]
    assert len(selection["cases"]) == 3
    assert [row["id"] for row in part["scenarios"]] == [
        row["id"] for row in whole["scenarios"] if row["id"] in selection["scenario_ids"]
    ]
    assert selection["expression"] == {"-m": "smoke", "--shard": "2/29"}


def test_a_shard_without_a_case_is_refused() -> None:
    whole = manifest("smoke")
    groups = len({(case["model"], case["scenario"]) for case in whole["selection"]["cases"]})

    with pytest.raises(UsageError, match=f"only {groups} subjects; use at most"):
        shard_manifest(whole, SIZES, groups + 1, groups + 1)
