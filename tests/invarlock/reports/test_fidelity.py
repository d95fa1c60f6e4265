"""Fidelity derived from raw numbers, its gates by tier and intent, and raw numbers that cannot all be true."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nulls import null_run
from packs import BASELINE, FAULT, REPORT, STRESS

from invarlock.errors import EvaluationError
from invarlock.metrics.fidelity import FIDELITY, derive_fidelity
from invarlock.metrics.fidelity_raw import part_problems
from invarlock.problems import Code
from invarlock.reports.derivation import compose, strip
from invarlock.reports.gates import judge_gates
from invarlock.reports.margins import limits_used
from invarlock.reports.null_runs import guard_signals, null_run_problems
from invarlock.reports.policy import overrides_of, resolve_policy
from invarlock.reports.presets import derive_preset
from invarlock.reports.verification import verify_against_baseline, verify_baseline, verify_report
from invarlock.statistics.histogram import BINS, EDGES, count_in_bins, lower_edge, quantile_edge, upper_edge
from invarlock.statistics.intervals import bca_interval, quantile

BOOTSTRAP: dict[str, Any] = {"replicates": 400, "alpha": 0.05, "seed": 3}
POSITIONS = 15
FLAGS = {"fidelity_kl_acceptable", "fidelity_same_top_acceptable", "fidelity_tail_acceptable"}
Changed = Callable[[Any], object]


@pytest.fixture(scope="module")
def real_reports(real_run: Any) -> dict[str, Any]:
    """Return reports of a real run by their path in its pack; tests change copies."""
    return {name: json.loads((real_run.pack / name).read_bytes()) for name in (REPORT, STRESS, FAULT, BASELINE)}


def raw_of(kl: np.ndarray[Any, Any], *, same: float = 0.9, top_k: int = 64) -> dict[str, Any]:
    """Return the raw part that divergences of shape (windows, positions) have."""
    generator = np.random.default_rng(1)
    is_same = generator.random(kl.shape) < same
    confident = generator.random(kl.shape) < 0.4
    counts = count_in_bins(kl)
    used = [number for number, count in enumerate(counts) if count]
    return {
        "baseline": {
            "vocabulary": 64,
            "top_k": top_k,
            "sha256": f"sha256:{'5' * 64}",
            "rest_mass": 0.0,
            "confident": confident.sum(1).tolist(),
        },
        "subject": {
            "kl_sum": kl.sum(1).tolist(),
            "kl_max": float(kl.max()),
            "histogram": {"first": used[0], "counts": counts[used[0] : used[-1] + 1]},
            "same_top": is_same.sum(1).tolist(),
            "confident_same": (is_same & confident).sum(1).tolist(),
            "delta_p_squared": (kl.sum(1) / 4).tolist(),
        },
    }


def divergences(scale: float = 0.02, windows: int = 12) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).exponential(scale, (windows, POSITIONS))


def derived(raw: Mapping[str, Any]) -> dict[str, Any]:
    return derive_fidelity(raw, [POSITIONS] * len(raw["baseline"]["confident"]), BOOTSTRAP)


def problems(raw: Mapping[str, Any]) -> list[str]:
    counts = [POSITIONS] * 12
    return [problem.field for problem in part_problems("raw", raw, counts)]


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_of_the_histogram_is_never_understated_and_by_a_bin_overstated(
    values: list[float], level: float
) -> None:
    counts = count_in_bins(np.asarray(values))
    exact = sorted(values)[max(0, math.ceil(round(level * len(values), 6)) - 1)]

    found = quantile_edge(0, counts, level, max(values))

    assert sum(counts) == len(values)
    assert exact <= found <= max(exact * 10 ** (1 / 40), EDGES[0]) * (1 + 1e-9) or found == max(values)


def test_the_smallest_quantile_is_of_the_first_bin_that_has_a_value() -> None:
    assert quantile_edge(7, [0, 5], 1e-9, math.inf) == upper_edge(8)


@given(st.integers(0, BINS - 1))
def test_bins_meet_at_their_edges(number: int) -> None:
    low, high = lower_edge(number), upper_edge(number)

    assert low < high
    assert count_in_bins(np.asarray([low]))[number] == 1
    assert number == BINS - 1 or count_in_bins(np.asarray([high]))[number + 1] == 1


def test_every_number_follows_from_the_raw_ones() -> None:
    kl = divergences()
    raw = raw_of(kl)

    block = derived(raw)

    interval = bca_interval(kl.mean(1).tolist(), [POSITIONS] * 12, **BOOTSTRAP)
    assert block["kl_mean"] == pytest.approx(float(kl.mean()))
    assert block["kl_mean_ci"] == pytest.approx([interval.low, interval.high])
    for name, level in (("kl_p50", 0.5), ("kl_p90", 0.9), ("kl_p99", 0.99)):
        exact = quantile(kl.ravel().tolist(), level)
        assert exact * 0.97 <= block[name] <= exact * 1.1
    assert block["kl_p999"] == pytest.approx(block["kl_max"]) == pytest.approx(float(kl.max()))
    assert block["same_top_share"] == pytest.approx(sum(raw["subject"]["same_top"]) / kl.size)
    assert block["same_top_ci"][0] < block["same_top_share"] < block["same_top_ci"][1]
    confident, same = sum(raw["baseline"]["confident"]), sum(raw["subject"]["confident_same"])
    assert block["confident_flip_share"] == pytest.approx((confident - same) / confident)
    assert block["delta_p_rms"] == pytest.approx(math.sqrt(float(kl.mean()) / 4))
    assert not block["invalid"]
    assert problems(raw) == []


def test_windows_without_a_confident_position_have_no_part_in_their_flips() -> None:
    raw = raw_of(divergences())
    raw["subject"]["confident_same"] = [0] * 12
    raw["baseline"]["confident"] = [0] * 11 + [4]
    raw["subject"]["same_top"] = [11] * 12

    block = derived(raw)
    raw["baseline"]["confident"][-1] = 0

    assert (block["confident_flip_share"], block["confident_flip_ci"]) == (1.0, [1.0, 1.0])
    assert derived(raw)["confident_flip_share"] is None


@pytest.mark.parametrize("name", ["kl_sum", "subject"])
def test_non_finite_or_unscored_results_are_invalid_and_fail_every_gate(name: str) -> None:
    raw = raw_of(divergences())
    if name == "subject":
        raw["subject"] = None
    else:
        raw["subject"][name][3] = None

    block = derived(raw)

    assert block["invalid"]
    assert block["reason"]
    assert block["kl_mean"] is None
    limits = resolve_policy("aggressive", "dev", {})["fidelity"]
    gates = FIDELITY.gates(block, limits)
    assert {gate.flag for gate in gates} == FLAGS
    assert all(gate.blocks and not gate.holds for gate in gates)
    assert set(FIDELITY.limits_used(block, limits).values()) == {None}


@pytest.mark.parametrize("tier", ["conservative", "balanced", "aggressive"])
@pytest.mark.parametrize(
    ("name", "flag", "sign"),
    [
        ("kl_limit", "fidelity_kl_acceptable", 1),
        ("same_top_limit", "fidelity_same_top_acceptable", -1),
        ("tail_limit", "fidelity_tail_acceptable", 1),
    ],
)
@pytest.mark.parametrize("beyond", [False, True])
def test_each_gate_passes_up_to_its_limit(tier: str, name: str, flag: str, sign: int, beyond: bool) -> None:
    limits = resolve_policy(tier, "dev", {})["fidelity"]
    # the estimate itself is within the limit: the worse end of the interval decides
    value = limits[name] * (1 + sign * 1e-9 * (1 if beyond else 0))
    good = {"kl_mean": 0.0, "kl_mean_ci": [0.0, 0.0], "same_top_share": 1.0, "same_top_ci": [1.0, 1.0], "kl_p999": 0.0}
    moved = {
        "kl_limit": {"kl_mean_ci": [0.0, value]},
        "same_top_limit": {"same_top_ci": [value, 1.0]},
        "tail_limit": {"kl_p999": value},
    }[name]

    block = {"invalid": False, "reason": None, **good, **moved}
    gates = {gate.flag: gate for gate in FIDELITY.gates(block, limits)}

    assert gates.keys() == FLAGS
    assert {gate.flag for gate in gates.values() if not gate.holds} == ({flag} if beyond else set())
    assert FIDELITY.limits_used(block, limits)[f"fidelity.{name}"] == pytest.approx(1.0)


def test_tiers_are_ordered_from_strict_to_lenient() -> None:
    tiers = [resolve_policy(tier, "dev", {})["fidelity"] for tier in ("conservative", "balanced", "aggressive")]

    assert [limits["kl_limit"] for limits in tiers] == sorted(limits["kl_limit"] for limits in tiers)
    assert [limits["tail_limit"] for limits in tiers] == sorted(limits["tail_limit"] for limits in tiers)
    shares = [limits["same_top_limit"] for limits in tiers]
    assert shares == sorted(shares, reverse=True)


def test_a_subject_that_is_meant_to_change_is_reported_and_not_gated(real_reports: dict[str, Any]) -> None:
    raw = strip(real_reports[STRESS])
    raw["policy_provenance"] = {**raw["policy_provenance"], "overrides": overrides_of("change")}

    report = compose(raw)

    before = real_reports[STRESS]
    assert not FLAGS & report["validation"].keys()
    assert before["validation"].keys() >= FLAGS
    assert any("fidelity_kl_acceptable" in line for line in before["assurance"]["blocking_reasons"])
    assert not any("fidelity" in line for line in report["assurance"]["blocking_reasons"])
    assert report["fidelity"] == before["fidelity"]
    assert not any(name.startswith("fidelity") for name in limits_used(report))
    assert verify_report(report) == []
    assert overrides_of("preserve") == {}


def test_a_suites_reports_have_what_they_should(real_reports: dict[str, Any]) -> None:
    noop, stress, fault = (real_reports[name]["fidelity"] for name in (REPORT, STRESS, FAULT))

    assert (noop["kl_mean"], noop["kl_mean_ci"], noop["kl_p999"], noop["kl_max"]) == (0.0, [0.0, 0.0], 0.0, 0.0)
    assert (noop["same_top_share"], noop["confident_flip_share"], noop["delta_p_rms"]) == (1.0, 0.0, 0.0)
    assert stress["kl_mean"] > 0.1
    assert stress["same_top_share"] < 0.8
    assert fault["invalid"]
    assert judge_gates(real_reports[REPORT], real_reports[REPORT]["resolved_policy"])


# Of a report's numbers each must follow, or contradict another one.
@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.update(kl_mean=f["kl_mean"] * 0.5),
        lambda f: f["kl_mean_ci"].__setitem__(1, f["kl_mean_ci"][1] * 0.5),
        *(lambda f, name=name: f.update({name: f[name] * 0.5}) for name in ("kl_p50", "kl_p90", "kl_p99", "kl_p999")),
        lambda f: f.update(kl_max=f["kl_max"] * 0.5),
        lambda f: f.update(same_top_share=1.0),
        lambda f: f["same_top_ci"].__setitem__(0, 1.0),
        lambda f: f.update(confident_flip_share=0.0),
        lambda f: f["confident_flip_ci"].__setitem__(1, 0.0),
        lambda f: f.update(delta_p_rms=0.0),
        lambda f: f.update(top_k=f["top_k"] + 1),
        lambda f: f.update(rest_mass=0.0),
        lambda f: f.update(invalid=True),
        lambda f: f.update(reason="x"),
    ],
)  # fmt: skip
def test_a_derived_number_that_was_changed_does_not_follow(real_reports: dict[str, Any], change: Changed) -> None:
    report = copy.deepcopy(real_reports[STRESS])
    change(report["fidelity"])

    found = verify_report(report)

    assert {problem.code for problem in found} == {Code.NUMBER_DOES_NOT_FOLLOW}
    assert {problem.field.split(".")[0] for problem in found} == {"fidelity"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s["kl_sum"].__setitem__(0, s["kl_max"] * 1e4), "kl_sum[0]"),
        (lambda s: s.update(kl_sum=[value / 2 for value in s["kl_sum"]]), "kl_sum"),
        (lambda s: s.update(kl_max=s["kl_max"] * 2), "kl_max"),
        (lambda s: s.update(kl_max=None), "kl_max"),
        (lambda s: s["histogram"].update(first=s["histogram"]["first"] - 8), ""),
        (lambda s: s["histogram"]["counts"].__setitem__(0, s["histogram"]["counts"][0] + 1), "histogram.counts"),
        (lambda s: s["histogram"]["counts"].insert(0, 0), "histogram.first"),
        (lambda s: s["same_top"].__setitem__(0, 10**6), "same_top[0]"),
        (lambda s: s["confident_same"].__setitem__(0, s["same_top"][0] + 1), "confident_same[0]"),
        (lambda s: s["delta_p_squared"].__setitem__(0, 1e5), "delta_p_squared[0]"),
        (lambda s: s["same_top"].pop(), "same_top"),
        (lambda s: s["same_top"].__setitem__(0, None), "kl_sum[0]"),
    ],
)  # fmt: skip
def test_raw_numbers_that_contradict_each_other_are_refused(
    real_reports: dict[str, Any], change: Changed, field: str
) -> None:
    raw = copy.deepcopy(strip(real_reports[STRESS]))
    change(raw["fidelity"]["raw"]["subject"])

    report: Any
    try:
        report = compose(raw)
    except (ValueError, TypeError):
        # numbers that nothing can be derived from are refused before that
        report = {
            **copy.deepcopy(real_reports[STRESS]),
            "fidelity": {**real_reports[STRESS]["fidelity"], **raw["fidelity"]},
        }
    found = verify_report(report)

    assert {problem.code for problem in found} == {Code.RAW_MEASUREMENTS_CONTRADICT}
    assert any(problem.field.startswith(f"fidelity.raw.subject.{field}") for problem in found)


def test_a_subject_with_no_number_has_an_empty_histogram(real_reports: dict[str, Any]) -> None:
    report = copy.deepcopy(real_reports[FAULT])
    assert report["fidelity"]["raw"]["subject"]["histogram"] == {"first": 0, "counts": []}
    report["fidelity"]["raw"]["subject"]["histogram"]["first"] = 1

    assert [problem.field for problem in verify_report(report)] == ["fidelity.raw.subject.histogram.first"]


def test_a_changed_subject_cannot_have_no_divergence(real_reports: dict[str, Any]) -> None:
    report = copy.deepcopy(real_reports[STRESS])
    report["fidelity"]["raw"]["subject"] = copy.deepcopy(real_reports[REPORT]["fidelity"]["raw"]["subject"])

    found = verify_report(compose(strip(report)))

    assert [problem.field for problem in found] == ["fidelity.raw.subject.kl_max"]


def test_a_subject_of_the_baselines_files_diverges_from_nothing(real_reports: dict[str, Any]) -> None:
    report = copy.deepcopy(real_reports[REPORT])
    raw, other = report["fidelity"]["raw"], real_reports[STRESS]["fidelity"]["raw"]
    raw["subject"] = copy.deepcopy(other["subject"])

    found = verify_report(compose(strip(report)))

    assert [problem.field for problem in found] == ["fidelity.raw.subject.kl_sum"]


def test_only_strict_determinism_allows_two_passes_of_one_model_no_divergence(real_reports: dict[str, Any]) -> None:
    raw = strip(copy.deepcopy(real_reports[REPORT]))
    small, final = lower_edge(1) / 2, raw["evaluation_windows"]["final"]
    subject = raw["fidelity"]["raw"]["subject"]
    subject["kl_sum"] = [small * count for count in final["token_counts"]]
    for part in (subject, *subject["slices"].values()):
        part["kl_max"] = small

    fields = {}
    for determinism in ("throughput", "strict"):
        raw["context"]["determinism"] = determinism
        fields[determinism] = [problem.field for problem in verify_report(compose(raw))]

    assert fields == {"throughput": [], "strict": ["fidelity.raw.subject.kl_sum"]}


@pytest.mark.parametrize(("both", "wrong"), [(3, True), (4, False), (5, False), (6, True)])
def test_positions_counted_in_two_ways_overlap_by_as_many_as_they_must(both: int, wrong: bool) -> None:
    raw = raw_of(divergences())
    # of 15 positions 14 are the same and 5 confident: 4 at least are both, and no more than 5
    raw["subject"]["same_top"][0], raw["baseline"]["confident"][0] = 14, 5

    raw["subject"]["confident_same"][0] = both

    assert problems(raw) == (["raw.subject.confident_same[0]"] if wrong else [])


def test_numbers_are_there_exactly_where_the_subject_was_scored(real_reports: dict[str, Any]) -> None:
    gone, unscored = copy.deepcopy(real_reports[STRESS]), copy.deepcopy(real_reports[STRESS])
    gone["fidelity"]["raw"]["subject"] = None
    unscored["scoring"]["not_scored"] = "it could not be loaded"

    for report in (gone, unscored):
        found = verify_report(compose(strip(report)))
        assert [problem.field for problem in found] == ["fidelity.raw.subject"]


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["confident"].__setitem__(0, f["confident"][0] - 1),
        lambda f: f.update(rest_mass=f["rest_mass"] / 2),
        lambda f: f.update(vocabulary=f["vocabulary"] + 1),
        lambda f: f.update(sha256=f"sha256:{'0' * 64}"),
    ],
)
def test_the_baselines_side_is_what_its_own_report_measured(real_reports: dict[str, Any], change: Changed) -> None:
    report, baseline = copy.deepcopy(real_reports[STRESS]), real_reports[BASELINE]
    assert verify_baseline(baseline) == []
    assert verify_against_baseline(report, baseline) == []
    change(report["fidelity"]["raw"]["baseline"])

    found = verify_against_baseline(compose(strip(report)), baseline)

    assert [problem.field for problem in found] == ["fidelity.raw.baseline"]


def test_a_preset_says_what_harmless_changes_measure_and_loosens_nothing() -> None:
    runs = [null_run(1), null_run(2)]

    preset = derive_preset(runs, "balanced")
    policy = resolve_policy("balanced", "dev", {}, preset["limits"])["fidelity"]
    tier = resolve_policy("balanced", "dev", {})["fidelity"]

    assert policy["null_level"].keys() == {change["name"] for change in runs[0].document["changes"]}
    assert all(level["kl_mean"] == pytest.approx(0.001) for level in policy["null_level"].values())
    assert {**policy, "null_level": None} == tier


def test_a_null_level_is_the_worst_of_all_learned_runs() -> None:
    learned = [null_run(1), null_run(2), null_run(3)]
    for change in learned[1].document["changes"]:
        subject = change["fidelity"]
        subject["kl_sum"] = [value * 10 for value in subject["kl_sum"]]
        subject["kl_max"] *= 10
        # bins are a fortieth of a decade
        subject["histogram"]["first"] += 40
    for change in learned[2].document["changes"]:
        change["fidelity"]["same_top"] = [8] * 4

    limits = derive_preset([*learned, null_run(4)], "balanced")["limits"]
    levels = resolve_policy("balanced", "dev", {}, limits)["fidelity"]["null_level"]

    for level in levels.values():
        assert level["kl_mean"] == pytest.approx(0.01)
        assert level["kl_p999"] == pytest.approx(0.01)
        assert level["same_top_share"] == pytest.approx(0.8)


def test_a_null_change_beyond_the_tiers_limit_sets_no_limit() -> None:
    runs = [null_run(1), null_run(2)]
    for change in runs[0].document["changes"]:
        subject = change["fidelity"]
        subject["kl_sum"] = [value * 1000 for value in subject["kl_sum"]]
        subject["kl_max"] *= 1000
        subject["histogram"]["first"] += 120

    assert list(null_run_problems(runs[0].document)) == []
    signals = guard_signals(runs[0].document, resolve_policy("balanced", "dev", {}))
    assert all("fidelity" in raised for raised in signals.values())
    with pytest.raises(EvaluationError, match="beyond the tier's limits"):
        derive_preset(runs, "balanced")


@pytest.mark.parametrize("limit", ["kl_limit", "same_top_limit", "tail_limit"])
def test_a_null_change_beyond_one_limit_alone_signals(limit: str) -> None:
    document, policy = null_run(1).document, resolve_policy("balanced", "dev", {})
    signals = guard_signals(document, policy)
    assert not any("fidelity" in raised for raised in signals.values())

    policy["fidelity"][limit] = 1.1 if limit == "same_top_limit" else 0.0

    assert all("fidelity" in raised for raised in guard_signals(document, policy).values())


def test_a_null_run_whose_numbers_contradict_each_other_is_refused() -> None:
    document = null_run(1).document
    document["changes"][1]["fidelity"]["histogram"]["counts"][0] += 1

    (problem,) = null_run_problems(document)

    assert problem.field == f"{document['changes'][1]['name']}.fidelity.subject.histogram.counts"
