"""Ctrl-C: a run ends at once, and reports the outcome of every case."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.packer.runs.run_ending import read_reports
from processes import SMALL, finish, start_pytest

from invarlock.harness.ending.finishing import cut_off
from invarlock.jsonio import read_json
from invarlock.verdict.compiling import planned_cases

ROOT = Path(__file__).parents[3]
START_SECONDS = 240.0
END_SECONDS = 300.0


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True], ids=["controller", "terminal"])
def test_an_interrupt_ends_a_run_with_workers_and_loses_no_finished_case(tmp_path: Path, to_all: bool) -> None:
    directory = tmp_path / "run"
    given = ("suites", "-n", "2", "-k", "mistral", "--output-dir", directory)

    with start_pytest(*given, env={**SMALL, "DRIFT_CALIBRATION_RUNS": "0"}, own_group=True) as process:
        deadline = time.monotonic() + START_SECONDS
        while counted(directory) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        if to_all:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        output = finish(process, END_SECONDS).stdout

    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "has a report, but pytest did not run it" not in output
    assert "the run was interrupted" in output
    tests = read_json(directory / "state/pytest_report.json")["tests"]
    planned = planned_cases(read_json(directory / "state/scenarios.json"))
    found = read_reports(RunDirectory(directory), planned)
    assert 3 <= len(tests) < len(planned)
    assert [test for test in tests if test["outcome"] != "passed"] == []
    assert len(tests) <= len(found.records) <= len(tests) + 2
    assert f"\n{len(found.records)} of {len(planned)} cases are done\n" in output
    assert "no report" not in output
    assert read_json(directory / "reports/final_verdict.json")["verdict"] == "FAIL"
    # every process of the run has ended
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def counted(directory: Path) -> int:
    """Return the number of finished cases that the run reports."""
    progress = directory / "state/progress.json"
    return int(read_json(progress)["cases"]["done"]) if progress.exists() else 0


def test_a_case_that_was_finished_and_not_counted_says_so(run: Path) -> None:
    plan = planned_cases(read_json(run / "state/scenarios.json"))
    found = read_reports(RunDirectory(run), plan)
    (first, *others) = (planned.case_id for planned in plan.values())

    rows: list[dict[str, Any]] = cut_off(plan, found, [{"case": first, "outcome": "passed", "message": ""}])

    assert [row["case"] for row in rows] == others
    assert {row["outcome"] for row in rows} == {"interrupted"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["setup", "call", "teardown"])
def test_an_exception_while_a_case_is_stopped_is_no_result(tmp_path: Path, stage: str) -> None:
    waits = (
        f"    Path({str(tmp_path / 'started')!r}).touch()\n"
        "    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n"
        "        raise OSError('what a library makes of an interrupt') from None\n"
    )
    passes = "    pass\n"
    before, within, after = (waits if name == stage else passes for name in ("setup", "call", "teardown"))
    (tmp_path / "conftest.py").write_text(
        "from invarlock.harness.stopping.interrupting import InterruptedCase, Interruption\n\n\n"
        "def pytest_configure(config):\n"
        "    worker = hasattr(config, 'workerinput')\n"
        "    config.pluginmanager.register(InterruptedCase() if worker else Interruption(config))\n"
    )
    (tmp_path / "test_cases.py").write_text(
        "import time\nfrom pathlib import Path\n\nimport pytest\n\n\n"
        f"@pytest.fixture\ndef stages():\n{before}    yield\n{after}\n\n"
        f"def test_first():\n    pass\n\n\ndef test_waits(stages):\n{within}"
    )

    with start_pytest("-n", "1", cwd=tmp_path, own_group=True) as process:
        deadline = time.monotonic() + START_SECONDS
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output = finish(process, END_SECONDS).stdout

    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "1 passed" in output or "2 passed" in output
    assert "failed" not in output
    assert "error" not in output.lower()
