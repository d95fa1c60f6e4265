"""How a run is divided into shards."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invarlock.catalog.cases import effective_manifest, plan_cases
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.catalog.shards import divide, shard_manifest
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import UsageError

SUITES = Path(__file__).parents[3] / "suites"


def manifest(suite: str) -> EffectiveManifest:
    scenarios = read_scenarios(SUITES / "scenarios.json")
    cases = [case for case in plan_cases(read_models(SUITES / "models.toml"), scenarios) if suite in case.suites]
    return effective_manifest(suite, cases, scenarios, {"-m": suite})


@given(
    st.dictionaries(st.tuples(st.sampled_from("abcde"), st.sampled_from("stuvwxyz")), st.integers(1, 3), min_size=1),
    st.integers(1, 12),
)
@settings(max_examples=200)
def test_every_group_is_in_one_shard_and_shards_differ_by_one_group(runs: dict[tuple[str, str], int], of: int) -> None:
    cases = [group for group, count in runs.items() for _ in range(count)]

    found = divide(cases, of)

    sizes = Counter(found.values())
    assert found == divide(reversed(cases), of)
    assert set(found) == set(runs)
    assert set(sizes) == set(range(1, min(of, len(runs)) + 1))
    models = {model for model, _ in runs}
    assert max(sizes.values()) - min(sizes.get(shard, 0) for shard in range(1, of + 1)) <= 1 + len(models)
    for model in models:
        own = Counter(shard for group, shard in found.items() if group[0] == model)
        assert max(own.values()) - min(own.get(shard, 0) for shard in range(1, of + 1)) <= 1


@pytest.mark.parametrize("suite", ["smoke", "full"])
@pytest.mark.parametrize("shards", [2, 3, 4, 5, 8])
def test_the_shards_of_a_suite_are_its_whole_plan_once_and_take_about_the_same_time(suite: str, shards: int) -> None:
    whole = manifest(suite)
    weights = {model.id: model.weight_bytes for model in read_models(SUITES / "models.toml").models.values()}

    parts = [shard_manifest(whole, index, shards)["selection"]["cases"] for index in range(1, shards + 1)]

    keys = [tuple(sorted(case.items())) for part in parts for case in part]
    assert sorted(keys) == sorted(tuple(sorted(case.items())) for case in whole["selection"]["cases"])
    work = [sum(weights[case["model"]] for case in part) for part in parts]
    assert max(work) <= 1.25 * sum(work) / shards


def test_a_shard_has_its_models_and_scenarios_alone_and_says_which_it_is() -> None:
    whole = manifest("smoke")

    part = shard_manifest(whole, 2, 29)

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
        shard_manifest(whole, groups + 1, groups + 1)
