"""The metric of tasks: what follows from scores of both sides, and when it refuses a subject."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from invarlock.metrics.tasks import TASKS, derive_tasks, record_problems
from invarlock.reports.policy import resolve_policy
from invarlock.statistics.paired_scores import mcnemar_exact, mean_difference

LIMITS = resolve_policy("balanced", "dev", {})["tasks"]
BOOTSTRAP = {"replicates": 1200, "alpha": 0.05, "seed": 0}
Scores = list[float]


def task(name: str, baseline: Scores, subject: Scores) -> dict[str, Any]:
    binary = {*baseline, *subject} <= {0.0, 1.0}
    return {
        "task": name,
        "metric": "acc",
        "samples": [str(number) for number in range(len(baseline))],
        "targets": ["0" * 16] * len(baseline),
        "prompts": ["1" * 16] * len(baseline),
        "baseline": {"scores": baseline, "correct": [score == 1 for score in baseline] if binary else None},
        "subject": {"scores": subject, "correct": [score == 1 for score in subject] if binary else None},
    }


def judged(*tasks: dict[str, Any], limits: dict[str, float] = LIMITS) -> tuple[dict[str, Any], dict[str, bool]]:
    block = derive_tasks({"tasks": list(tasks)}, limits, BOOTSTRAP)
    return block, {gate.flag: gate.holds for gate in TASKS.gates(block, limits)}


def answers(right: int, of: int) -> Scores:
    return [1.0] * right + [0.0] * (of - right)


def test_a_report_without_records_has_nothing_to_judge() -> None:
    block = derive_tasks(None, LIMITS, BOOTSTRAP)

    assert block == {"status": "not_evaluated", "reason": "no results of tasks were given"}
    assert TASKS.gates(block, LIMITS) == []


def test_means_difference_and_flips_follow_from_the_scores() -> None:
    block, flags = judged(task("a", [1, 1, 1, 0], [1, 0, 0, 1]), task("b", [1, 0], [1, 0]))

    a, b = block["tasks"]
    assert (a["baseline_mean"], a["subject_mean"], a["difference"]) == (0.75, 0.5, -0.25)
    assert (a["flips"], a["mcnemar_p"]) == ({"lost": 2, "gained": 1}, 1.0)
    assert (b["difference"], b["flips"]) == (0, {"lost": 0, "gained": 0})
    assert block["overall"]["samples"] == 6
    assert block["overall"]["flips"] == {"lost": 2, "gained": 1}
    assert block["overall"]["difference"] == pytest.approx(-1 / 6)
    assert flags == {"tasks_regression_acceptable": False, "tasks_interval_acceptable": False}


def test_scores_that_are_not_right_or_wrong_have_no_flips() -> None:
    block, _ = judged(task("a", [0.25, 1.0, 0.5], [0.5, 1.0, 0.25]))

    assert (block["overall"]["flips"], block["overall"]["mcnemar_p"]) == (None, None)
    assert block["overall"]["difference"] == 0


def test_many_samples_that_agree_pass() -> None:
    block, flags = judged(task("a", answers(700, 1000), answers(700, 1000)))

    assert (block["status"], flags) == (
        "pass",
        {"tasks_regression_acceptable": True, "tasks_interval_acceptable": True},
    )
    assert block["overall"]["interval_method"] == "exact"


def test_few_samples_that_agree_are_too_little_evidence() -> None:
    block, flags = judged(task("a", answers(4, 5), answers(4, 5)))

    assert block["status"] == "fail"
    assert flags == {"tasks_regression_acceptable": False, "tasks_interval_acceptable": False}
    # 1 - 0.025 ** (1 / 5), by hand
    assert block["overall"]["ci"] == pytest.approx([-0.52182, 0.52182], abs=1e-5)


@pytest.mark.parametrize(("lost", "reach"), [(0.0, 1), (0.25, 2)])
def test_an_interval_of_equal_differences_reaches_as_far_as_an_unseen_sample_can(lost: float, reach: int) -> None:
    found = mean_difference([0.5] * 30, [0.5 - lost] * 30, replicates=10, alpha=0.05, seed=0)

    # Clopper and Pearson's interval of no sample in thirty
    unseen = binomtest(0, 30).proportion_ci(0.95, method="exact").high
    assert (found.value, found.method) == (-lost, "exact")
    assert (found.low, found.high) == pytest.approx((-lost - reach * unseen, -lost + reach * unseen))


def test_a_subject_that_lost_a_tenth_of_its_answers_fails() -> None:
    block, flags = judged(task("a", answers(800, 1000), answers(700, 1000)))

    assert block["overall"]["flips"] == {"lost": 100, "gained": 0}
    assert block["overall"]["mcnemar_p"] < 1e-20
    assert block["overall"]["ci"] == pytest.approx([-0.12, -0.083], abs=0.005)
    assert flags == {"tasks_regression_acceptable": False, "tasks_interval_acceptable": True}


def test_a_broken_task_fails_although_the_mean_is_within_its_limit() -> None:
    healthy = task("healthy", answers(7000, 10_000), answers(7000, 10_000))
    block, flags = judged(healthy, task("broken", answers(100, 100), answers(20, 100)))

    assert block["overall"]["ci"][0] > -LIMITS["maximum_regression"]
    assert flags["tasks_regression_acceptable"] is False
    assert "broken" in TASKS.gates(block, LIMITS)[0].measured


def test_a_subject_that_got_better_passes() -> None:
    block, flags = judged(task("a", answers(700, 1000), answers(720, 1000)))

    assert block["overall"]["difference"] == pytest.approx(0.02)
    assert all(flags.values())
    assert TASKS.limits_used(block, LIMITS)["tasks.maximum_regression"] == 0


def test_tiers_are_ordered_by_what_they_allow() -> None:
    tiers = [resolve_policy(tier, "dev", {})["tasks"] for tier in ("conservative", "balanced", "aggressive")]

    for name in ("maximum_regression", "maximum_interval_width"):
        values = [tier[name] for tier in tiers]
        assert values == sorted(values)
        assert len(set(values)) == 3


def test_the_digest_of_the_samples_is_that_of_the_questions_and_not_of_the_answers() -> None:
    one, _ = judged(task("a", [1, 0, 1], [1, 1, 1]))
    same, _ = judged(task("a", [0, 0, 1], [1, 0, 0]))
    other, _ = judged({**task("a", [1, 0, 1], [1, 1, 1]), "prompts": ["1" * 16, "1" * 16, "2" * 16]})

    assert one["samples_sha256"] == same["samples_sha256"] != other["samples_sha256"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda row: row["samples"].append("9"), "task_records.tasks[0]"),
        (lambda row: row["samples"].__setitem__(0, "1"), "task_records.tasks[0].samples"),
        (lambda row: row["subject"]["correct"].__setitem__(0, False), "task_records.tasks[0].subject.correct"),
        (lambda row: row["subject"].update(correct=None), "task_records.tasks[0].subject.correct"),
    ],
)
def test_records_that_contradict_themselves_are_named(change: Any, field: str) -> None:
    row = task("a", [1, 0, 1], [1, 1, 1])
    change(row)

    assert [problem.field for problem in record_problems({"tasks": [row]})] == [field]
    assert [problem.field for problem in TASKS.raw_problems({"task_records": {"tasks": [row]}})] == [field]
    twice = task("b", [1.0], [1.0])
    assert [problem.field for problem in record_problems({"tasks": [twice, twice]})] == ["task_records.tasks"]


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_p_value_is_that_of_the_binomial_test(lost: int, gained: int) -> None:
    flips = lost + gained
    expected = 1.0 if flips == 0 else binomtest(min(lost, gained), flips, 0.5).pvalue

    assert mcnemar_exact(lost, gained) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(lost, gained) == mcnemar_exact(gained, lost)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=60)
)
def test_the_interval_contains_the_difference_and_swaps_with_the_sides(pairs: list[tuple[float, float]]) -> None:
    baseline, subject = ([pair[side] for pair in pairs] for side in (0, 1))

    found = mean_difference(baseline, subject, replicates=200, alpha=0.05, seed=3)
    turned = mean_difference(subject, baseline, replicates=200, alpha=0.05, seed=3)

    assert -1 <= found.low <= found.high <= 1
    assert turned.value == pytest.approx(-found.value)
    if found.method == "exact":
        assert found.low < found.high or found.high == found.low == found.value
