"""Whether a divergence is that of harmless changes: each number that decides it, on both sides of its limit."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from packs import STRESS

from invarlock.judgement.null_level import KL, SAME_TOP, TAIL, is_at_null_level
from invarlock.reports.derivation import compose, context, strip

AT_LIMIT: dict[str, Any] = {
    "invalid": False,
    "kl_mean": KL / 2,
    "kl_mean_ci": [KL / 4, KL],
    "same_top_share": SAME_TOP,
    "kl_p999": TAIL,
}
BEYOND: list[dict[str, Any]] = [
    {"invalid": True, "kl_mean": None, "kl_mean_ci": None, "same_top_share": None, "kl_p999": None},
    {"kl_mean": KL * 1.001},
    {"kl_mean_ci": [KL / 4, KL * 1.001]},
    {"same_top_share": SAME_TOP - 0.001},
    {"kl_p999": TAIL * 1.001},
]


def test_a_divergence_at_the_limit_is_at_the_null_level() -> None:
    assert is_at_null_level(AT_LIMIT, None)
    assert is_at_null_level({**AT_LIMIT, "slices": {"prose": AT_LIMIT}}, None)


@pytest.mark.parametrize("changed", BEYOND)
def test_each_number_beyond_its_limit_over_all_windows_or_in_one_slice_is_a_change(changed: dict[str, Any]) -> None:
    beyond = {**AT_LIMIT, **changed}

    assert not is_at_null_level(beyond, None)
    assert not is_at_null_level({**AT_LIMIT, "slices": {"prose": AT_LIMIT, "code": beyond}}, None)


@pytest.mark.parametrize("block", [None, {"raw": {}}])
def test_nothing_is_known_of_a_subject_whose_divergence_is_not_judged(block: dict[str, Any] | None) -> None:
    assert not is_at_null_level(block, None)


def test_a_preset_raises_the_level_to_that_of_its_model_and_never_lowers_it() -> None:
    more = {"kl_mean": 2 * KL, "same_top_share": 0.9, "kl_p999": 2 * TAIL}
    less = {"kl_mean": 0.0, "same_top_share": 1.0, "kl_p999": 0.0}
    moved = {**AT_LIMIT, "kl_mean_ci": [KL, 2 * KL], "same_top_share": 0.9, "kl_p999": 2 * TAIL}

    assert is_at_null_level(moved, {"jitter": more, "float16": less})
    assert is_at_null_level(moved, {"jitter": {**less, "slices": {"prose": more}}})
    assert is_at_null_level(AT_LIMIT, {"float16": less})
    assert not is_at_null_level(moved, {"float16": less})


def test_guards_of_a_report_know_whether_it_is_at_the_null_level_of_its_policy(real_run: Any) -> None:
    report = json.loads((real_run.pack / STRESS).read_bytes())
    changed = compose(strip(report))
    same = copy.deepcopy(changed)
    raw: Any = same["fidelity"]["raw"]["subject"]
    count = sum(raw["histogram"]["counts"])
    raw |= {"kl_sum": [0.0] * len(raw["kl_sum"]), "kl_max": 0.0}
    raw["same_top"] = list(same["evaluation_windows"]["final"]["token_counts"])
    raw["histogram"] = {"first": raw["histogram"]["first"], "counts": [count]}
    for slice_histogram in raw.get("slices", {}).values():
        slice_histogram["histogram"]["counts"] = [sum(slice_histogram["histogram"]["counts"])]
        slice_histogram["kl_max"] = 0.0

    found = compose(strip(same))

    assert not context(changed).unchanged
    assert context(found).unchanged
    for guard in ("spectral", "rmt"):
        assert (changed[guard]["status"], found[guard]["status"]) == ("fail", "warn")
