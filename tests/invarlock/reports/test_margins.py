"""How much of each limit a report uses."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from invarlock.reports.margins import limits_used, tightest

NOOP = "embedded__mistral-tiny/reports/guard_value_control_noop/run_1/evaluation.report.json"
SCALE = "embedded__mistral-tiny/reports/errors/guard_value_spectral_factor_1.07/evaluation.report.json"
SCALED = "model.layers.1.self_attn.o_proj.weight"


def load(run: Any, path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run.directory / path).read_bytes())
    return document


def test_a_copy_of_the_baseline_uses_nothing_of_any_limit(swept_run: Any) -> None:
    used = limits_used(load(swept_run, NOOP))

    assert set(used.values()) == {0.0}
    assert {name.partition(".")[0] for name in used} == {"primary_metric", "fidelity", "spectral", "rmt", "variance"}


def test_a_scaled_matrix_uses_as_much_of_the_deadband_as_its_logarithm(swept_run: Any) -> None:
    report = load(swept_run, SCALE)

    used = limits_used(report)

    log_ratio = report["spectral"]["modules"][SCALED]["log_ratio"]
    assert log_ratio == pytest.approx(math.log(1.07), rel=0.01)
    assert used["spectral.deadband_ratio"] == pytest.approx(log_ratio / math.log(1.05), rel=1e-9)
    assert used["spectral.max_caps"] == pytest.approx(1 / 5)
    metric = report["primary_metric"]
    assert used["primary_metric.ratio_limit"] == pytest.approx(max(0.0, (metric["ci"][1] - 1) / 0.1))


@pytest.mark.parametrize(
    ("change", "name", "share"),
    [
        (lambda r: r["primary_metric"].update(ci=[1.0, 1.05]), "primary_metric.ratio_limit", 0.5),
        (lambda r: r["primary_metric"].update(ci=[0.9, 0.98]), "primary_metric.ratio_limit", 0.0),
        (lambda r: r["primary_metric"].update(ci=None), "primary_metric.ratio_limit", None),
        (lambda r: r["primary_metric"].update(drift=1.025), "primary_metric.drift_band", 0.5),
        (lambda r: r["primary_metric"].update(drift=0.96), "primary_metric.drift_band", 0.8),
        (lambda r: r["primary_metric"].update(drift=None), "primary_metric.drift_band", None),
        (lambda r: r["primary_metric_tail"].update(status="warn", value=0.3, limit=0.2), "primary_metric_tail.limit",
         1.5),
        (lambda r: r["spectral"]["metrics"].update(caps_applied=3), "spectral.max_caps", 0.6),
        (lambda r: r["spectral"]["metrics"].update(max_edge_risk=2.0), "spectral.change.edge_risk", 0.5),
        (lambda r: r["spectral"]["metrics"].update(max_coherent=0.05), "spectral.change.coherent_share", 0.2),
        (lambda r: r["spectral"]["modules"][SCALED].update(log_norm_ratio=math.log(0.5)), "spectral.norm_fall", 0.5),
        (lambda r: r["spectral"]["modules"][SCALED].update(log_ratio=None), "spectral.deadband_ratio", None),
        (lambda r: r["spectral"].update(status="error"), "spectral.max_caps", None),
        (lambda r: r["rmt"]["families"]["ffn"].update(change=0.015), "rmt.epsilon", 0.5),
        (lambda r: r["rmt"]["families"]["ffn"].update(largest_growth=0.05), "rmt.layer_growth", 0.05),
        (lambda r: r["rmt"]["families"]["attn"].update(largest_fall=-0.45), "rmt.layer_fall", 0.9),
        (lambda r: r["rmt"]["violations"].append({"module": "a", "severity": "fail", "reason": "7"}), "rmt.epsilon",
         None),
        (lambda r: r["variance"]["modules"].update(a={"ratio": 0.99}), "variance.deadband", 0.5),
        (lambda r: r["variance"].update(status="error"), "variance.deadband", None),
        (lambda r: r["variance"]["modules"].update(a={"ratio": None}), "variance.deadband", None),
    ],
)  # fmt: skip
def test_each_limit_has_its_share(swept_run: Any, change: Any, name: str, share: float | None) -> None:
    report = copy.deepcopy(load(swept_run, NOOP))
    change(report)

    assert limits_used(report)[name] == (share if share is None else pytest.approx(share))


def test_the_tightest_limit_is_that_of_a_gate_and_what_was_not_measured_comes_first() -> None:
    assert tightest({"a": 0.2, "b": 0.7, "variance.deadband": 9.0}) == ("b", 0.7)
    assert tightest({"a": 5.0, "b": None}) == ("b", None)
    assert tightest({"primary_metric.ratio_limit": 0.3, "spectral.max_caps": 0.4, "rmt.epsilon": 0.2}) == (
        "spectral.max_caps", 0.4,
    )  # fmt: skip
    assert tightest({"a": 0.0, "b": 0.5}) == ("b", 0.5)
    assert tightest({"a": 0.0, "b": 0.0}) == ("a", 0.0)


def test_guards_that_were_not_run_have_no_limits(swept_run: Any) -> None:
    report = load(swept_run, NOOP)
    report["rmt"] = {"status": "not_evaluated"}

    assert not [name for name in limits_used(report) if name.startswith("rmt")]
    assert Path(NOOP).name == "evaluation.report.json"
