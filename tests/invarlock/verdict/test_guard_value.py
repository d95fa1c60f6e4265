"""The guard-value sweep: points read off reports, and what they count up to."""

import json
from typing import Any

import pytest
from processes import packer, succeed

from invarlock.reports.probes import file_name
from invarlock.verdict.compiling import Planned
from invarlock.verdict.guard_value import FILE_NAME, sweep_document, sweep_lines, sweep_point

COUNTS = ("points", "accepted_by_perplexity", "accepted_and_detected", "accepted_and_refused_by_a_gate")


def load(path: Any) -> Any:
    return json.loads(path.read_bytes())


@pytest.fixture
def swept(swept_run: Any) -> dict[str, Any]:
    document: dict[str, Any] = load(swept_run.directory / "reports" / FILE_NAME)
    return document


def test_a_sweep_lists_what_perplexity_accepts_and_the_guards_detect(swept: dict[str, Any]) -> None:
    scale, skew, noop = swept["points"]

    assert (scale["guard"], scale["parameter"], scale["value"]) == ("spectral", "factor", 1.07)
    assert (scale["perplexity_accepts"], scale["guard_detects"], scale["guards_detect"]) == (True, True, True)
    assert "spectral" in scale["guards_that_signal"]
    assert scale["limits_used"]["spectral.deadband_ratio"] > 1
    assert (skew["guard"], set(skew["probes"])) == ("variance", {"ve_probe"})
    assert [row["changes_function"] for row in (scale, skew, noop)] == [
        abs(row["paired_t"]) > 3 for row in (scale, skew, noop)
    ]
    assert noop["paired_t"] == 0.0
    assert (noop["role"], noop["guard"], noop["ratio"], noop["guards_detect"]) == ("control", None, 1.0, False)
    assert noop["probes"] == {"rmt_probe": False, "ve_probe": False}
    assert [swept["faults"][name] for name in COUNTS[:3]] == [2, 2, 2]
    assert swept["guards"]["rmt"]["points"] == 0
    assert swept["controls"] == {"points": 1, "refused": 0, "false_alarms": 0, "alarms": []}


def test_the_pack_has_the_sweep_of_the_run_and_it_verifies(swept_run: Any, swept: dict[str, Any]) -> None:
    assert load(swept_run.pack / "reports" / FILE_NAME) == swept
    succeed(packer("verify", swept_run.pack, "--strict"))


Planned_ = tuple[Planned, dict[str, Any]]


@pytest.fixture
def planned(swept_run: Any, swept: dict[str, Any]) -> list[Planned_]:
    """The planned cases of a sweep in the order of its points, each with its report and what its probes found."""
    rows = {row["id"]: row for row in load(swept_run.pack / "metadata/scenarios.json")["scenarios"]}
    found = []
    for point in swept["points"]:
        case = {key: point[key] for key in ("model", "scenario", "run")}
        report = swept_run.pack / point["path"]
        probes = {name: load(report.with_name(file_name(name))) for name in point["probes"]}
        found.append((Planned(point["path"], case, rows[case["scenario"]]), {**load(report), **probes}))
    return found


def test_each_point_is_what_a_report_and_its_probes_give(planned: list[Planned_], swept: dict[str, Any]) -> None:
    points = {case.path: sweep_point(case, report, "sha256:0") for case, report in planned}

    assert [points[row["path"]] for row in swept["points"]] == [
        {**row, "report_sha256": "sha256:0"} for row in swept["points"]
    ]


def point_of(planned: Planned_, **changes: Any) -> Any:
    """Return the point of a report with some blocks changed."""
    case, report = planned
    blocks = {name: {**report[name], **change} for name, change in changes.items()}
    point = sweep_point(case, {**report, **blocks}, "sha256:0")
    assert point is not None
    return point


def test_a_refused_metric_is_no_signal_of_a_guard(planned: list[Planned_]) -> None:
    noop = planned[2]
    accepted, refused = point_of(noop), point_of(noop, validation={"primary_metric_acceptable": False})

    assert (accepted["perplexity_accepts"], accepted["gates_that_refuse"]) == (True, [])
    assert (refused["perplexity_accepts"], refused["guards_that_signal"]) == (False, [])
    assert (refused["gates_that_refuse"], refused["guards_detect"]) == ([], False)


def test_the_gates_of_guards_that_refuse_a_point_are_named(planned: list[Planned_]) -> None:
    point = point_of(planned[2], validation={"spectral_stable": False})

    assert point["gates_that_refuse"] == ["spectral_stable"]


@pytest.mark.parametrize("name", ["rmt_probe", "ve_probe"])
def test_one_probe_that_detects_is_enough(name: str, planned: list[Planned_]) -> None:
    quiet, detected = point_of(planned[2]), point_of(planned[2], **{name: {"detected": True}})

    assert (quiet["guards_detect"], detected["guards_detect"]) == (False, True)
    assert detected["probes"] == {**quiet["probes"], name: True}
    assert (quiet["guard_detects"], detected["guard_detects"]) == (None, None)


def test_points_are_in_the_order_of_their_guards_and_the_text_has_a_line_for_each(swept: dict[str, Any]) -> None:
    points = {row["path"]: row for row in swept["points"]}
    scale, skew, noop = points
    points[skew] |= {"scenario": "a"}

    document = sweep_document(dict(reversed(points.items())))

    assert [row["path"] for row in document["points"]] == [scale, skew, noop]
    lines = sweep_lines(points)
    assert [line.split()[0] for line in lines[2:-1]] == list(document["guards"])
    assert lines[2].split()[1:] == ["1", "1", "1", "1"]


def test_a_run_without_a_sweep_has_no_document(real_run: Any) -> None:
    assert not (real_run.directory / "reports" / FILE_NAME).exists()
    assert not (real_run.pack / "reports" / FILE_NAME).exists()
    assert sweep_lines({}) == []


def test_counts_follow_from_the_points(swept: dict[str, Any]) -> None:
    points = {row["path"]: row for row in swept["points"]}
    scale, skew, noop = points
    points[scale] |= {"guards_that_signal": [], "guards_detect": False, "guard_detects": False}
    points[skew] |= {"perplexity_accepts": False, "gates_that_refuse": ["spectral_stable"]}
    points[noop] |= {"guards_detect": True, "probes": {"rmt_probe": True, "ve_probe": False}}

    document: Any = sweep_document(points)

    assert [document["faults"][name] for name in COUNTS] == [2, 1, 0, 0]
    assert document["guards"]["variance"]["accepted_and_detected_by_it"] == 0
    assert document["controls"] == {"points": 1, "refused": 0, "false_alarms": 1, "alarms": [noop]}
    assert [document["guards"][guard]["false_alarms"] for guard in ("spectral", "rmt", "variance")] == [0, 1, 0]
    assert sweep_lines(points)[-1] == "negative controls: 1, 1 false alarms, 0 refused"


@pytest.mark.parametrize(
    ("deltas", "t", "measurable"),
    [
        # two-sided: a fault that lowers the loss changes the function as much as one that raises it
        ([0.1, 0.2, 0.3, 0.4], 3.87298334621, True),
        ([-0.1, -0.2, -0.3, -0.4], -3.87298334621, True),
        ([-0.1, 0.2, -0.3, 0.4], 0.321633760451, False),
        ([0.0, 0.0, 0.0, 0.0], 0.0, False),
        # no spread to hold it against, or a loss that is not finite: nothing says that the function is the same
        ([0.5, 0.5, 0.5, 0.5], None, True),
        ([0.5, None, 0.5, 0.25], None, True),
    ],
)
def test_a_point_changes_the_function_where_its_paired_t_is_beyond_three_either_way(
    deltas: list[float | None], t: float | None, measurable: bool, swept_run: Any, swept: dict[str, Any]
) -> None:
    path = swept["points"][0]["path"]
    scenarios = {row["id"]: row for row in load(swept_run.pack / "metadata/scenarios.json")["scenarios"]}
    case = {key: swept["points"][0][key] for key in ("model", "scenario", "run")}
    report = load(swept_run.pack / path)
    report["evaluation_windows"]["final"] |= {
        "logloss": deltas,
        "baseline_logloss": [0.0] * len(deltas),
    }

    point = sweep_point(Planned(path, case, scenarios[case["scenario"]]), report, "sha256:0")

    assert point is not None
    assert point["paired_t"] == (None if t is None else pytest.approx(t, rel=1e-9))
    assert point["changes_function"] is measurable


def test_a_report_that_is_no_step_of_a_sweep_is_no_point(real_run: Any) -> None:
    path = "embedded__mistral-tiny/reports/noop_control/run_1/evaluation.report.json"
    scenario = load(real_run.pack / "metadata/scenarios.json")["scenarios"][0]

    assert sweep_point(Planned(path, {}, scenario), load(real_run.directory / path), "sha256:0") is None
