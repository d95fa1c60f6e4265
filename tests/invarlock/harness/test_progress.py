import io
import json
import os
import pty
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import start_pytest

from invarlock.catalog.cases import Case
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.harness.terminal.bar import CaseBar
from invarlock.harness.terminal.logs import LAST_LINES, last_lines
from invarlock.harness.terminal.progress import case_line
from invarlock.jsonio import check_schema

ROOT = Path(__file__).parents[3]


@pytest.fixture
def case() -> Case:
    models = read_models(ROOT / "suites/models.toml")
    scenario = next(row for row in read_scenarios(ROOT / "suites/scenarios.json") if row.id == "prune_clean")
    return Case(models.models["embedded/mistral-tiny"], scenario, 2, ("smoke",))


def test_a_line_says_model_scenario_ratio_guards_and_seconds(case: Case) -> None:
    facts = {"ratio": "1.0021", "guards": "rmt warn"}

    lines = [
        case_line(case, facts | {"spec": "magnitude_prune:0.24:ffn"}, 2.04, "passed"),
        case_line(case, facts | {"spec": "prune_clean"}, 2.04, "passed"),
        case_line(case, {}, 0.26, "FAILED"),
    ]

    assert lines == [
        "passed  mistral-tiny  prune_clean (run 2)  ratio 1.0021  guards rmt warn  magnitude_prune:0.24:ffn  2.0 s",
        "passed  mistral-tiny  prune_clean (run 2)  ratio 1.0021  guards rmt warn  2.0 s",
        "FAILED  mistral-tiny  prune_clean (run 2)  no report  0.3 s",
    ]


def test_the_bar_says_how_much_is_done_and_leaves_no_trace_when_cleared(pytestconfig: pytest.Config) -> None:
    shown = io.StringIO()
    reporter = pytest.TerminalReporter(pytestconfig, shown)
    bar = CaseBar(reporter, total_cost=66_000, width=lambda: 80)

    assert shown.getvalue() == ""
    bar.draw("33/66 cases, 2 failed", cost_done=33_000)
    drawn = shown.getvalue()
    bar.clear()
    cleared = shown.getvalue().removeprefix(drawn)

    assert drawn.rstrip() == "\r[##########          ] 33/66 cases, 2 failed"
    assert re.fullmatch(r"\r +\r", cleared)
    assert len(cleared) - 2 >= len(drawn.strip())
    # a line that another plugin wrote is not cleared
    bar.draw("34/66 cases", cost_done=34_000)
    reporter.write_line("gw0 crashed")
    written = shown.getvalue()
    bar.clear()
    assert shown.getvalue() == written
    assert "34/66 cases" in written.splitlines()[-2]
    assert written.splitlines()[-1] == "gw0 crashed"


def test_the_bar_never_fills_the_line_of_a_narrow_terminal(pytestconfig: pytest.Config) -> None:
    shown = io.StringIO()
    bar = CaseBar(pytest.TerminalReporter(pytestconfig, shown), total_cost=2, width=lambda: 30)

    bar.draw("1/2 cases", cost_done=1)

    assert shown.getvalue().strip("\r") == "[##########          ] 1/2 ca"


def test_the_last_lines_of_a_log_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    path.write_text("".join(f"line {number} {'x' * 200}\n" for number in range(1000)))

    found = last_lines(path)

    assert [line.split()[1] for line in found] == [str(number) for number in range(1000 - LAST_LINES, 1000)]
    assert last_lines(tmp_path / "absent.log") == []


def test_a_run_leaves_logs_and_progress_and_says_why_a_case_failed(
    run_pytest: Callable[..., Any], own_suites: Path, tmp_path: Path
) -> None:
    catalog = own_suites / "scenarios.json"
    document = json.loads(catalog.read_text("utf-8"))
    row = next(row for row in document["scenarios"] if row["id"] == "prune_clean")
    row["generation"]["edit_spec"] = "magnitude_prune:0.9:all"
    catalog.write_text(json.dumps(document))
    junit = tmp_path / "junit.xml"

    ran = run_pytest("-k", "mistral and prune_clean", "-n", "1", f"--junitxml={junit}", suites=own_suites)

    assert ran.status == 1, ran.output
    progress = json.loads((ran.directory / "state/progress.json").read_text("utf-8"))
    check_schema(progress, "progress", where="progress.json")
    assert progress["cases"] == {"total": 1, "done": 1, "passed": 0, "failed": 1}
    assert (progress["state"], progress["verdict"], progress["running"]) == ("ended", "FAIL", [])
    assert progress["stage"] is None
    assert not (ran.directory / "state" / "stages").exists()
    assert progress["failed"] == ["mistral-tiny-prune_clean-run1"]
    assert re.search(r"^invarlock: estimate: about \d+ (s|min), .*of memory, .*of disk", ran.output, re.MULTILINE)
    # one line for each case, and no progress bar without a terminal
    lines = [line for line in ran.output.splitlines() if line.startswith("FAILED  mistral-tiny  prune_clean  ratio ")]
    assert len(lines) == 1
    assert "\r" not in ran.output
    # the failure message ends with the case's log, which appears once
    assert ran.output.count("last lines of logs/mistral-tiny-prune_clean-run1.log") == 1
    assert "\nFAILED suites/test_scenarios.py::test_scenario[mistral-tiny-prune_clean-run1] - " in ran.output
    assert "Captured log" not in ran.output
    assert "Traceback" not in ran.output
    assert "last lines of logs" in junit.read_text("utf-8")
    assert 'name="ratio"' in junit.read_text("utf-8")
    names = sorted(path.name for path in (ran.directory / "logs").iterdir())
    assert names == ["controller.log", "mistral-tiny-prune_clean-run1.log", "worker_0.log"]
    log = (ran.directory / "logs/mistral-tiny-prune_clean-run1.log").read_text("utf-8")
    for stage in ("devices: cpu0", "baseline embedded/mistral-tiny is ready", "subject made by", "subject measured"):
        assert stage in log
    spec = re.escape("prune_clean (magnitude_prune:0.9:all) on ")
    assert re.search(rf"Z ERROR +mistral-tiny-prune_clean-run1: failed in call after [0-9.]+ s: {spec}", log)
    # the times of making and measuring the subject are part of the case's time
    stages = [float(seconds) for seconds in re.findall(r"(?:subject made by .* in|ready after) ([0-9.]+) s", log)]
    total = re.search(r"failed in call after ([0-9.]+) s", log)
    assert total is not None
    assert float(total[1]) >= sum(stages) > 0
    # the pack contains no logs
    for path in ran.pack.rglob("*.json"):
        text = path.read_text("utf-8")
        assert "last lines" not in text
        assert str(tmp_path) not in text


@pytest.mark.slow
def test_on_a_terminal_the_bar_is_below_the_lines_of_the_cases(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    for path in (ROOT / "suites").iterdir():
        if path.name not in ("conftest.py", "test_scenarios.py", "__pycache__"):
            (tmp_path / "suites" / path.name).symlink_to(path)
    # the cases measure nothing, because the test is about pytest's output
    (tmp_path / "suites/test_nothing.py").write_text("def test_nothing(case): pass\n")
    given = ("suites", "-k", "mistral and (noop or prune_clean)", "--no-pack", "-p", "invarlock.harness.plugin")
    places = ("--rootdir", tmp_path, "--output-dir", tmp_path / "run")
    ours, theirs = pty.openpty()

    with start_pytest(*given, *places, cwd=tmp_path, without=("CI", "BUILD_NUMBER"), output=theirs) as process:
        os.close(theirs)
        output = _read_all(ours)
    os.close(ours)

    assert "\r\n\r[##########          ] 1/2 cases, about " in output
    after = output[output.index("1/2 cases") :]
    assert re.match(r"1/2 cases, about \d+ s left *\r +\r(?:passed  mistral-tiny|\x1b)", after), after
    assert process.returncode == 1
    assert "no report; pytest: passed" in output


def _read_all(terminal: int) -> str:
    found = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            # Linux reports this error when the last process has closed the other end
            break
        if not part:
            break
        found += part
    return found.decode("utf-8", "replace")
