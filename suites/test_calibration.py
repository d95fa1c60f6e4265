"""Null runs, with --suite-mode calibrate-only: presets are derived from them when the session ends."""

from collections.abc import Mapping
from typing import Any

from invarlock.harness.planning.plan import PlannedNullRun


def test_null_run(null_run: PlannedNullRun, measured_null_run: Mapping[str, Any]) -> None:
    # imported here: it imports NumPy, and collecting must not
    from invarlock.reports.null_runs import null_run_problems

    assert list(null_run_problems(measured_null_run)) == []
