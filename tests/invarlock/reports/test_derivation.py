"""What a report is derived from: each derived number follows from the raw field that its format names."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from packs import STRESS

from invarlock.documents.reports import Report
from invarlock.guards.variance import SCALED_WINDOWS
from invarlock.reports.derivation import compose, context, strip


@pytest.fixture
def raw(real_run: Any) -> dict[str, Any]:
    """The raw part of a report whose windows differ, so that its interval has a width."""
    return strip(json.loads((real_run.pack / STRESS).read_bytes()))


def with_seed(raw: dict[str, Any], name: str, value: int) -> Report:
    changed = copy.deepcopy(raw)
    changed["meta"]["seeds"][name] = value
    return compose(changed)


def test_the_intervals_are_drawn_with_the_seed_of_the_bootstrap_and_not_with_that_of_the_windows(
    raw: dict[str, Any],
) -> None:
    report = compose(raw)

    other_windows = with_seed(raw, "windows", raw["meta"]["seeds"]["windows"] + 1)
    other_bootstrap = with_seed(raw, "bootstrap", raw["meta"]["seeds"]["bootstrap"] + 1)

    assert report["primary_metric"]["interval_method"] == "bca"
    assert other_windows["primary_metric"] == report["primary_metric"]
    assert other_bootstrap["primary_metric"]["ci"] != report["primary_metric"]["ci"]
    assert other_bootstrap["primary_metric"]["ratio_vs_baseline"] == report["primary_metric"]["ratio_vs_baseline"]


def test_the_variance_guard_draws_with_the_seed_of_the_bootstrap_too(raw: dict[str, Any]) -> None:
    # outputs a tenth larger than the baseline's, and a scaled model that is better on every window by another amount
    subject = raw["variance"]["raw"]["subject"]
    subject["modules"] = {
        name: {**row, "rms": row["rms"] * 1.1} for name, row in raw["variance"]["raw"]["baseline"]["modules"].items()
    }
    losses = raw["evaluation_windows"]["final"]["logloss"][:SCALED_WINDOWS]
    subject["scaled_logloss"] = [loss - 0.1 - 0.01 * (index % 5) - 0.0007 * index for index, loss in enumerate(losses)]
    gate = compose(raw)["variance"]["predictive_gate"]

    other_windows = with_seed(raw, "windows", raw["meta"]["seeds"]["windows"] + 1)
    other_bootstrap = with_seed(raw, "bootstrap", raw["meta"]["seeds"]["bootstrap"] + 1)

    assert gate["evaluated"]
    assert other_windows["variance"]["predictive_gate"] == gate
    assert other_bootstrap["variance"]["predictive_gate"]["delta_ci"] != gate["delta_ci"]


def test_a_measurement_is_named_by_its_model_its_case_its_subject_and_both_seeds(raw: dict[str, Any]) -> None:
    names = [compose(raw)["run_id"]]
    for block, field, value in (
        ("meta", "model_id", "another/model"),
        ("meta", "scenario", "another"),
        ("meta", "run", 7),
        ("subject", "digest", f"sha256:{'0' * 64}"),
    ):
        changed = copy.deepcopy(raw)
        changed[block][field] = value
        names.append(compose(changed)["run_id"])
    names += [with_seed(raw, name, 99)["run_id"] for name in ("windows", "bootstrap")]

    assert len(set(names)) == len(names)


def test_failed_gates_block_and_a_warning_of_the_tail_does_not(raw: dict[str, Any]) -> None:
    final = raw["evaluation_windows"]["final"]
    count = 60
    for name, values in final.items():
        final[name] = [values[index % len(values)] for index in range(count)]
    for side in raw["fidelity"]["raw"].values():
        for name, values in side.items():
            if isinstance(values, list):
                side[name] = [values[index % len(values)] for index in range(count)]
    final["logloss"] = [loss + (0.0 if index % 10 else 0.5) for index, loss in enumerate(final["baseline_logloss"])]
    raw["dataset"]["windows"]["final"] = count
    raw["guards"] = ["invariants", "spectral"]

    report = compose(raw)

    assert report["primary_metric_tail"]["mode"] == "warn"
    assert report["primary_metric_tail"]["status"] == "warn"
    assert report["validation"]["primary_metric_tail_acceptable"] is False
    blocking = [line.partition(":")[0] for line in report["assurance"]["blocking_reasons"]]
    failed = [flag for flag, holds in report["validation"].items() if not holds]
    assert blocking == [flag for flag in failed if flag != "primary_metric_tail_acceptable"]
    assert report["assurance"]["verdict"] == ("FAIL" if blocking else "PASS")


def test_only_the_measurements_of_a_guard_are_kept(real_run: Any) -> None:
    report = json.loads((real_run.pack / STRESS).read_bytes())
    for guard in report["guards"]:
        report[guard]["claimed"] = True

    raw = strip(report)

    assert [set(raw[guard]) for guard in report["guards"]] == [{"raw", "measurement_contract"}] * len(report["guards"])
    assert not any("claimed" in block for block in compose(raw).values() if isinstance(block, dict))


def test_a_change_along_one_direction_is_a_finding_unless_the_subject_is_meant_to_change(raw: dict[str, Any]) -> None:
    changes = raw["spectral"]["raw"]["changes"]
    name = sorted(changes)[0]
    changes[name] |= {"relative": 0.1, "coherent": 0.0, "flipped": 0.0, "edge_risk": 10.0, "unit_order": None}
    meant = copy.deepcopy(raw)
    meant["policy_provenance"]["overrides"]["fidelity.intent"] = "change"

    preserved, changed = compose(raw), compose(meant)

    assert name in preserved["spectral"]["metrics"]["suspicious_changes"]
    assert name not in changed["spectral"]["metrics"]["suspicious_changes"]


@pytest.mark.parametrize("intent", ["preserve", "change"])
def test_guards_know_whether_a_subject_is_meant_to_change(intent: str, raw: dict[str, Any]) -> None:
    raw["policy_provenance"]["overrides"]["fidelity.intent"] = intent

    assert context(compose(raw)).intent == intent


def test_guards_know_each_pair_of_matrices_between_which_scales_were_moved(raw: dict[str, Any]) -> None:
    report = compose(raw)
    report["equivalence"] = [
        {"kind": "unit_scales", "modules": ["up", "down", "value", "output", "both", "both"], "largest": 1.0},
        {"kind": "units", "modules": ["down", "up"], "largest": 1.0},
    ]

    assert context(report).scaled_by == {"down": "up", "output": "value"}


@pytest.mark.parametrize(
    ("stored", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)]
)
def test_guards_know_the_error_of_rounding_to_the_coarsest_type_that_stores_a_tensor(
    stored: str, dtype: torch.dtype, raw: dict[str, Any]
) -> None:
    sides = raw["invariants"]["raw"]
    for side in ("baseline", "subject"):
        for tensor in sides[side]["tensors"].values():
            tensor["dtype"] = "F32"
    next(iter(sides["subject"]["tensors"].values()))["dtype"] = stored

    found = context(compose(raw)).rounding

    # eps is the distance from 1 to the next number
    assert found == torch.finfo(dtype).eps / 2
