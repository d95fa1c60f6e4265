import math
from collections.abc import Sequence
from typing import Any

import pytest

from invarlock.metrics.perplexity import (
    derive_primary_metric,
    drift_is_acceptable,
    ratio_is_acceptable,
    window_statistics,
)
from invarlock.metrics.tail import TAIL, derive_tail
from invarlock.reports.policy import resolve_policy

POLICY = resolve_policy("balanced", "dev", {})
LIMITS = POLICY["primary_metric"]


def windows(own: Sequence[float | None], base: Sequence[float | None], preview: float = 3.0) -> dict[str, Any]:
    count = len(own)
    return {
        "preview": {
            "window_ids": ["p0", "p1"],
            "token_counts": [127, 127],
            "logloss": [preview, preview],
            "baseline_logloss": [3.0, 3.0],
        },
        "final": {
            "window_ids": [f"f{index}" for index in range(count)],
            "token_counts": [127] * count,
            "logloss": own,
            "baseline_logloss": base,
        },
    }


def metric(parts: dict[str, Any], not_scored: str | None = None) -> dict[str, Any]:
    return derive_primary_metric(parts, LIMITS, 7, not_scored)


def test_the_ratio_is_the_exponential_of_the_mean_paired_difference() -> None:
    block = metric(windows([3.1, 3.3, 2.9], [3.0, 3.1, 3.0]))

    assert block["ratio_vs_baseline"] == pytest.approx(math.exp((0.1 + 0.2 - 0.1) / 3), rel=1e-11)
    assert block["ci"][0] <= block["ratio_vs_baseline"] <= block["ci"][1]
    assert block["interval_method"] == "bca"
    assert block["final"] == pytest.approx(math.exp((3.1 + 3.3 + 2.9) / 3), rel=1e-11)
    assert not block["invalid"]


def test_equal_losses_give_a_ratio_of_exactly_one_and_a_collapsed_interval() -> None:
    block = metric(windows([3.0, 2.5], [3.0, 2.5]))

    assert (block["ratio_vs_baseline"], block["ci"], block["degenerate"]) == (1.0, [1.0, 1.0], True)
    assert ratio_is_acceptable(block, LIMITS)


def test_one_loss_that_is_not_finite_makes_the_metric_invalid_and_fails_it() -> None:
    block = metric(windows([3.0, None, 3.0], [3.0, 3.0, 3.0]))

    assert block["invalid"]
    assert block["ratio_vs_baseline"] is None
    assert block["reason"] == "the subject's loss is not finite on 1 of 5 windows"
    assert not ratio_is_acceptable(block, LIMITS)


def test_a_preview_loss_that_is_not_finite_is_never_dropped() -> None:
    parts = windows([3.0], [3.0])
    parts["preview"]["logloss"][1] = None

    block = metric(parts)

    assert block["invalid"]
    assert not drift_is_acceptable(block, LIMITS)


def test_a_subject_that_was_not_scored_says_why() -> None:
    block = metric(windows([None, None], [3.0, 3.0]), "the checkpoint lacks 9 tensors")

    assert (block["invalid"], block["reason"]) == (True, "the checkpoint lacks 9 tensors")


def test_a_ratio_too_large_for_a_float_is_null_and_fails() -> None:
    block = metric(windows([900.0, 901.0], [1.0, 1.0]))

    assert block["ratio_vs_baseline"] is None
    assert block["degraded"]
    assert block["reason"] == "the ratio is too large for a float"
    assert not ratio_is_acceptable(block, LIMITS)


def test_the_gate_is_on_the_upper_end_of_the_interval_too() -> None:
    own = [3.0 + 0.09 + (0.2 if index % 2 else -0.2) for index in range(8)]

    block = metric(windows(own, [3.0] * 8))

    assert block["ratio_vs_baseline"] < LIMITS["ratio_limit"] < block["ci"][1]
    assert not ratio_is_acceptable(block, LIMITS)


def test_drift_is_judged_relative_to_the_baselines_own() -> None:
    steady = metric(windows([3.5, 3.5], [3.2, 3.2], preview=3.3))
    drifting = metric(windows([3.5, 3.5], [3.2, 3.2], preview=3.0))

    assert steady["drift"] == pytest.approx(1.0)
    assert drift_is_acceptable(steady, LIMITS)
    assert drifting["drift"] == pytest.approx(math.exp(0.3))
    assert not drift_is_acceptable(drifting, LIMITS)


def test_a_baseline_that_drifts_itself_is_taken_off_the_subjects_drift() -> None:
    parts = windows([3.5, 3.7], [2.5, 2.7], preview=2.75)
    parts["preview"]["baseline_logloss"] = [3.2, 3.4]

    drift = metric(parts)["drift"]

    assert drift == pytest.approx(math.exp((3.6 - 2.75) - (2.6 - 3.3)))


def test_a_spike_is_degraded() -> None:
    assert metric(windows([3.7, 3.7], [3.0, 3.0]))["degraded"]
    assert not metric(windows([3.6, 3.6], [3.0, 3.0]))["degraded"]


def test_the_tail_needs_fifty_windows_and_warns() -> None:
    limits = POLICY["primary_metric_tail"]
    own, base = [3.0] * 46 + [4.0] * 4, [3.0] * 50

    few = derive_tail(windows(own[:49], base[:49]), limits, False)
    assert (few["status"], few["reason"]) == ("not_evaluated", "too few windows")
    failed = derive_tail(windows(base[:49], base[:49]), {**limits, "mode": "fail"}, False)
    assert (failed["status"], failed["reason"]) == ("fail", "too few windows")
    tail = derive_tail(windows(own, base), limits, False)

    assert (tail["status"], tail["value"]) == ("warn", 1.0)
    assert derive_tail(windows(own, base), {**limits, "mode": "fail"}, False)["status"] == "fail"
    assert derive_tail(windows(base, base), limits, False)["status"] == "pass"


@pytest.mark.parametrize("status", ["pass", "warn", "fail", "not_evaluated"])
def test_the_page_shows_the_loss_differences_and_the_limit_that_they_were_judged_by(status: str) -> None:
    judged = status != "not_evaluated"
    tail = {"status": status, "quantile": 0.95, "value": 0.5 if judged else None, "limit": 0.2}
    scored = windows([3.0, 2.5, None, None, None], [3.0, 2.0, 2.0, 2.0, 2.0])

    section = "".join(TAIL.page_section({"evaluation_windows": scored, "primary_metric_tail": tail}))

    assert "of 5 final windows in the order drawn; from 0 to 0.5; 3 not finite" in section
    assert ("; their 95 % quantile is 0.5, and its limit 0.2, drawn as a dashed line" in section) is judged
    assert (">limit 0.2</text>" in section) is judged
    assert ('class="bars beyond"' in section) is judged


def test_the_page_of_a_subject_without_a_finite_loss_has_words_in_place_of_the_figure() -> None:
    scored = windows([None, None], [3.0, 3.0])
    tail = {"status": "fail", "quantile": 0.95, "value": None, "limit": 0.2}

    section = "".join(TAIL.page_section({"evaluation_windows": scored, "primary_metric_tail": tail}))

    assert section.endswith("<p>none of the 2 final windows has a finite difference</p>")


def test_window_statistics_count_pairs_and_shared_windows() -> None:
    parts = windows([3.0, None], [3.0, 3.0])
    parts["final"]["window_ids"][0] = "p0"

    stats = window_statistics(parts, {"preview": 2, "final": 2})

    assert (stats["paired_windows"], stats["window_match_fraction"], stats["window_overlap_fraction"]) == (
        3,
        0.75,
        0.25,
    )
    assert stats["coverage"]["tokens"] == 4 * 127


def test_where_no_window_was_scored_none_pairs() -> None:
    parts = windows([], [])
    parts["preview"] = {key: [] for key in parts["preview"]}

    stats = window_statistics(parts, {"preview": 2, "final": 2})

    assert (stats["paired_windows"], stats["window_match_fraction"], stats["window_overlap_fraction"]) == (0, 0.0, 0.0)
    assert metric(parts)["reason"] == "no window was scored"
