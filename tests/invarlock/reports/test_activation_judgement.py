"""What follows from edge risks and outputs: growth and collapse, proposals and their gain."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from invarlock.guards.rmt import RMT, derive_rmt, derive_rmt_probe
from invarlock.guards.variance import (
    SCALED_PROBE_WINDOWS,
    SCALED_WINDOWS,
    VARIANCE,
    derive_variance,
    derive_ve_probe,
    propose_scales,
)
from invarlock.judgement.expectations import comparable
from invarlock.judgement.null_level import SAME_ANSWERS
from invarlock.reports.policy import resolve_policy

POLICY = resolve_policy("balanced", "dev", {})
BOOTSTRAP = {"replicates": 200, "alpha": 0.05, "seed": 1}
# The edge risks of 210 layers in 30 blocks, measured on real weights; the document says how.
SMOLLM2 = json.loads((Path(__file__).parents[2] / "data/edge_risks/smollm2-135m.json").read_bytes())


def side(**risks: float | None) -> dict[str, Any]:
    rows = {
        name: {
            "family": name.partition("_")[0], "tokens": 100, "features": 8, "nonfinite": 0, "edge_risk": risk,
        }
        for name, risk in risks.items()
    }  # fmt: skip
    return {"measurement_contract_hash": "0" * 16, "modules": rows}


def of_smollm2(risks: Sequence[float]) -> dict[str, Any]:
    named = dict(zip(SMOLLM2["layers"], risks, strict=True))
    return side(**{f"{'attn' if 'attn' in name else 'ffn'}_{name}": risk for name, risk in named.items()})


def rmt(before: dict[str, Any], after: dict[str, Any]) -> Any:
    return derive_rmt({"baseline": before, "subject": after}, POLICY["rmt"])


def test_the_same_on_both_sides_passes() -> None:
    block = rmt(side(ffn_a=2.0, attn_a=3.0), side(ffn_a=2.0, attn_a=3.0))

    assert (block["status"], block["violations"]) == ("pass", [])
    assert block["modules"] == {"attn_a": 0.0, "ffn_a": 0.0}


@pytest.mark.parametrize(
    ("moved", "status"),
    [
        # at the limit, two of five beyond it, and one of two
        ((1.03, 1.03, 1.03, 1.03, 1.2), "pass"),
        ((1.0, 1.0, 1.0, 1.2, 1.2), "pass"),
        ((1.0, 1.2), "pass"),
        ((1.04, 1.2), "fail"),
        ((1.0, 1.0, 1.031, 1.031, 1.031), "fail"),
        # growth and fall count alike
        ((1.0, 0.96, 1.04, 0.96, 1.04), "fail"),
    ],
)
def test_a_family_fails_if_more_than_half_of_its_layers_moved_beyond_its_limit(
    moved: tuple[float, ...], status: str
) -> None:
    block = rmt(
        side(**{f"ffn_{layer}": 2.0 for layer in range(len(moved))}),
        side(**{f"ffn_{layer}": 2.0 * factor for layer, factor in enumerate(moved)}),
    )

    assert block["status"] == status
    assert block["metrics"]["violating_families"] == (["family ffn"] if status == "fail" else [])
    assert block["metrics"]["violating_layers"] == []


def test_the_level_of_a_family_is_the_median_of_its_layers_changes_and_its_limit_three_epsilons() -> None:
    before, after = (
        side(ffn_a=1.0, ffn_b=1.0, ffn_c=1.0, ffn_d=1.0),
        side(ffn_a=0.99, ffn_b=1.2, ffn_c=0.96, ffn_d=1.05),
    )

    block = rmt(before, after)

    assert block["families"]["ffn"] == {
        "modules": 4, "change": 0.04, "limit": 0.03, "largest_growth": 0.2, "largest_fall": -0.04,
    }  # fmt: skip
    assert block["violations"] == [
        {
            "module": "family ffn", "severity": "fail",
            "reason": "over half of its edge risks moved by at least 0.04, more than 0.03",
        }
    ]  # fmt: skip
    learned = {**POLICY["rmt"], "epsilon_by_family": {"ffn": 0.02}}
    assert derive_rmt({"baseline": before, "subject": after}, learned)["status"] == "pass"


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (2.0, None),
        (2.01, "its edge risk grew by 1.01, more than 1"),
        (0.5, None),
        (0.49, "its edge risk fell by 0.51, more than 0.5"),
    ],
)
def test_one_layer_beyond_its_limit_fails_whatever_the_others_do(factor: float, reason: str | None) -> None:
    others = {f"attn_{layer}": 5.0 for layer in range(50)}

    block = rmt(side(attn_late=2.0, **others), side(attn_late=2.0 * factor, **others))

    assert block["status"] == ("fail" if reason else "pass")
    assert [row["reason"] for row in block["violations"]] == ([reason] if reason else [])
    assert RMT.signalled_modules(block) == (["attn_late"] if reason else [])


@pytest.mark.parametrize("name", SMOLLM2["harmless"])
def test_harmless_edits_of_a_model_of_thirty_blocks_pass(name: str) -> None:
    edit = SMOLLM2["harmless"][name]

    block = rmt(of_smollm2(SMOLLM2["baseline"]), of_smollm2(edit["edge_risks"]))

    assert edit["kl"] < 0.06
    assert (block["status"], block["violations"]) == ("pass", [])
    # with some room: two fifths more would pass as well
    assert all(share is not None and share < 0.7 for share in RMT.limits_used(block, POLICY["rmt"]).values())


@pytest.mark.parametrize("name", SMOLLM2["broken"])
def test_a_model_of_thirty_blocks_that_is_broken_in_all_or_in_one_late_block_fails(name: str) -> None:
    edit = SMOLLM2["broken"][name]

    block = rmt(of_smollm2(SMOLLM2["baseline"]), of_smollm2(edit["edge_risks"]))

    assert block["status"] == "fail"
    assert max(share or 0.0 for share in RMT.limits_used(block, POLICY["rmt"]).values()) > 1


def test_growth_that_changes_no_answer_warns_and_activations_that_are_not_finite_fail() -> None:
    raw = {"baseline": side(ffn_a=2.0, attn_a=1.0), "subject": side(ffn_a=4.1, attn_a=0.5)}
    broken = {"baseline": side(ffn_a=2.0), "subject": side(ffn_a=2.0)}
    broken["subject"]["modules"]["ffn_a"]["nonfinite"] = 1

    block = derive_rmt(raw, POLICY["rmt"], unchanged=True)

    assert (block["status"], block["passed"]) == ("warn", True)
    assert block["metrics"]["violating_families"] == ["family attn", "family ffn"]
    assert block["metrics"]["violating_layers"] == ["ffn_a"]
    assert all(row["reason"].endswith(SAME_ANSWERS) for row in block["violations"])
    assert derive_rmt(raw, POLICY["rmt"])["status"] == "fail"
    assert derive_rmt(broken, POLICY["rmt"], unchanged=True)["status"] == "fail"


def test_a_family_is_judged_by_those_of_its_modules_that_both_sides_measured() -> None:
    before, after = side(ffn_a=2.0, ffn_b=3.0, ffn_c=None), side(ffn_a=1.9, ffn_b=None, ffn_c=4.0)

    block = rmt(before, after)

    row = block["families"]["ffn"]
    assert (row["modules"], row["change"], row["largest_growth"]) == (3, 0.05, -0.05)
    assert block["status"] == "fail"
    assert block["modules"] == {"ffn_a": -0.05, "ffn_b": None, "ffn_c": None}


def test_no_growth_is_counted_from_zero_and_a_layer_that_stays_at_zero_has_not_moved() -> None:
    before, after = side(ffn_a=2.0, ffn_b=0.0, ffn_c=0.0), side(ffn_a=2.0, ffn_b=1.0, ffn_c=0.0)

    block = rmt(before, after)

    assert block["modules"] == {"ffn_a": 0.0, "ffn_b": None, "ffn_c": 0.0}
    assert (block["metrics"]["largest_growth"], block["metrics"]["largest_fall"]) == (0.0, 0.0)
    assert rmt(side(ffn_a=2.0), side(ffn_a=0.0))["modules"] == {"ffn_a": -1.0}


def test_a_layer_that_moved_within_the_limit_of_one_is_judged_by_the_probe_alone() -> None:
    raw = {"baseline": side(ffn_a=2.0, ffn_b=1.0), "subject": side(ffn_a=2.0, ffn_b=1.2)}

    assert derive_rmt(raw, POLICY["rmt"])["status"] == "pass"
    probe = derive_rmt_probe(raw, POLICY["rmt"])
    assert (probe["detected"], probe["detected_modules"]) == (True, ["ffn_b"])
    own = {**POLICY["rmt"], "epsilon_by_module": {"ffn_b": 0.3}}
    assert derive_rmt_probe(raw, own)["detected"] is False


@pytest.mark.parametrize(
    ("before", "after", "status", "reason"),
    [
        (side(ffn_a=1.0), side(), "error", "could not be measured"),
        (side(ffn_a=1.0, ffn_b=1.0), side(ffn_a=1.0), "error", "only the baseline has it"),
        (side(ffn_a=1.0), side(ffn_a=None), "warn", "too few to say anything"),
    ],
)
def test_what_could_not_be_measured_is_reported(before: Any, after: Any, status: str, reason: str) -> None:
    block = rmt(before, after)

    assert block["status"] == status
    assert reason in block["violations"][0]["reason"]


def test_activations_that_are_not_finite_fail() -> None:
    after = side(ffn_a=None)
    after["modules"]["ffn_a"]["nonfinite"] = 3

    block = rmt(side(ffn_a=1.0), after)

    assert (block["status"], block["passed"]) == ("fail", False)
    assert block["violations"][0]["reason"] == "3 non-finite activations"


def outputs(**rms: float | None) -> dict[str, Any]:
    return {name: {"rms": value} for name, value in rms.items()}


def test_scales_are_ratios_clamped_and_only_beyond_the_deadband() -> None:
    before = outputs(a=1.0, b=1.0, c=1.0, d=1.0, e=None)
    after = outputs(a=0.9, b=1.01, c=5.0, d=0.1, e=1.0)

    assert propose_scales(before, after, POLICY["variance"]) == {"a": 1.11111111, "c": 0.85, "d": 1.12}
    fewer = {**POLICY["variance"], "max_adjusted_modules": 1}
    assert propose_scales(before, after, fewer) == {"c": 0.85}


def variance(scaled: Sequence[float | None] | None, loss: float = 3.0, **policy: Any) -> Any:
    raw = {
        "baseline": {"modules": outputs(a=1.0)},
        "subject": {"modules": outputs(a=0.9), "scaled_logloss": scaled},
    }
    windows = {"logloss": [loss] * 8, "token_counts": [127] * 8}
    return derive_variance(raw, {**POLICY["variance"], **policy}, windows, BOOTSTRAP)


def test_a_gain_beyond_doubt_is_a_signal_and_never_a_failure() -> None:
    block = variance([2.9 + index / 1000 for index in range(8)])

    assert (block["status"], block["passed"], block["predictive_gate"]["passed"]) == ("warn", True, True)
    assert block["ab_gain"] == pytest.approx(0.0965)
    assert block["predictive_gate"]["delta_ci"][1] < 0


@pytest.mark.parametrize(
    ("scaled", "policy"),
    [
        ([3.1] * 8, {}),
        ([2.9, 3.1] * 4, {}),
        ([3.0] * 8, {}),
        ([2.99] * 8, {"min_effect": 0.033}),
        ([2.9, None] * 4, {}),
    ],
)
def test_no_gain_a_doubtful_one_or_none_that_could_be_measured_is_no_signal(scaled: Any, policy: Any) -> None:
    block = variance(scaled, **policy)

    assert (block["status"], block["predictive_gate"]["passed"]) == ("pass", False)


@pytest.mark.parametrize(("scaled", "status"), [(2.9949, "warn"), (2.9951, "pass")])
def test_a_gain_of_less_than_half_a_per_cent_is_detected_by_the_probe_and_is_no_warning(
    scaled: float, status: str
) -> None:
    block = variance([scaled] * 8)

    assert (block["status"], len(block["violations"])) == (status, int(status == "warn"))
    assert block["predictive_gate"]["passed"]
    raw = {
        "baseline": {"modules": outputs(a=1.0)},
        "subject": {"modules": outputs(a=0.9), "scaled_logloss": [scaled] * 8},
    }
    probe = derive_ve_probe(raw, POLICY["variance"], {"logloss": [3.0] * 8, "token_counts": [127] * 8}, BOOTSTRAP)
    assert (probe["detected"], len(probe["violations"])) == (True, 1)


def test_losses_are_there_if_and_only_if_scales_are_proposed() -> None:
    raw = {
        "baseline": {"modules": outputs(a=1.0)},
        "subject": {"modules": outputs(a=1.01), "scaled_logloss": [2.9] * 8},
    }
    windows = {"logloss": [3.0] * 8, "token_counts": [127] * 8}

    with pytest.raises(ValueError, match="unasked losses for 0 scales"):
        derive_variance(raw, POLICY["variance"], windows, BOOTSTRAP)
    with pytest.raises(ValueError, match="no losses for 1 scales"):
        variance(None)


def test_the_sum_of_a_blocks_experts_is_compared_if_their_number_is_declared() -> None:
    sides = {name: {"modules": {"model.layers.0.mlp.experts": {"rms": rms}}} for name, rms in (("a", 1.0), ("b", 0.9))}
    raw = {"baseline": sides["a"], "subject": sides["b"]}

    found = comparable(raw, {"expected": ["experts=3"]})

    assert found["subject"] == sides["b"]
    assert comparable(raw, {"expected": ["experts=3"]}, "features")["subject"]["modules"] == {}


def test_as_many_scaled_losses_as_windows_are_needed() -> None:
    with pytest.raises(ValueError, match="scaled_logloss: 7 losses, but 8 windows"):
        variance([2.9] * 7)


@pytest.mark.parametrize(
    ("derive", "count"), [(derive_variance, SCALED_WINDOWS), (derive_ve_probe, SCALED_PROBE_WINDOWS)]
)
@pytest.mark.parametrize("own", [10, 16, 40, 64, 90])
def test_scaled_losses_are_those_of_the_first_windows_of_the_first_slice(derive: Any, count: int, own: int) -> None:
    losses = [3.0 + index / 100 for index in range(own)]
    windows = {
        "logloss": [*losses, *[9.0] * 10],
        "token_counts": [127] * (own + 10),
        "slices": ["austen"] * own + ["melville"] * 10,
    }
    scored = min(own, count)

    def gate(scaled: Sequence[float]) -> Any:
        raw = {
            "baseline": {"modules": outputs(a=1.0)},
            "subject": {"modules": outputs(a=0.9), "scaled_logloss": scaled},
        }
        return derive(raw, POLICY["variance"], windows, BOOTSTRAP)["predictive_gate"]

    assert gate([loss - 0.25 for loss in losses[:scored]])["mean_delta"] == pytest.approx(-0.25)
    for wrong in ([1.0] * (scored - 1), [1.0] * (scored + 1)):
        with pytest.raises(ValueError, match=f"{len(wrong)} losses, but {scored} windows"):
            gate(wrong)


def test_the_smallest_effect_is_that_of_the_windows_that_are_scored_with_scales() -> None:
    learnt = next(one for one in VARIANCE.learned if one.limit == "variance.min_effect")
    changes = [[0.01, -0.01] * 20]

    limits = {windows: learnt.derive(changes, POLICY, windows) for windows in (8, 16, 64)}

    assert [block["windows"] for block in limits.values()] == [8, 16, 16]
    assert limits[64]["limit"] == limits[16]["limit"] == pytest.approx(limits[8]["limit"] / math.sqrt(2))


def test_a_two_sided_interval_reaches_further_than_a_one_sided_one() -> None:
    scaled = [2.96, 3.01, 2.97, 3.02, 2.98, 2.995, 2.97, 3.0]

    one = variance(scaled, sides="one")["predictive_gate"]["delta_ci"][1]
    two = variance(scaled, sides="two")["predictive_gate"]["delta_ci"][1]

    assert one < two


def test_an_output_that_is_not_finite_is_an_error() -> None:
    raw = {
        "baseline": {"modules": outputs(a=1.0)},
        "subject": {"modules": outputs(a=None), "scaled_logloss": None},
    }
    windows = {"logloss": [3.0] * 8, "token_counts": [127] * 8}

    block = derive_variance(raw, POLICY["variance"], windows, BOOTSTRAP)

    assert (block["status"], block["passed"]) == ("error", False)
    assert derive_ve_probe(raw, POLICY["variance"], windows, BOOTSTRAP)["detected"] is False


def test_outputs_that_could_not_be_measured_are_named_up_to_three() -> None:
    names = dict.fromkeys("abcde", 1.0)
    raw = {"baseline": {"modules": outputs(**names)}, "subject": {"modules": {}, "scaled_logloss": None}}
    windows = {"logloss": [3.0] * 8, "token_counts": [127] * 8}

    found = derive_variance(raw, POLICY["variance"], windows, BOOTSTRAP)["violations"]

    assert [(row["module"], row["severity"]) for row in found] == [("a", "error"), ("b", "error"), ("c", "error")]
