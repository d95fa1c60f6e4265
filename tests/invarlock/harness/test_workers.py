"""Workers that die, or run out of memory: their case is run once more, on another or with more."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SMALL = {
    "INVARLOCK_PREVIEW_WINDOWS": "8",
    "INVARLOCK_FINAL_WINDOWS": "16",
    "OMP_NUM_THREADS": "1",
    "DRIFT_CALIBRATION_RUNS": "0",
}


def workers(controller: int) -> list[int]:
    """Return the processes that a controller started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == controller:
            found.append(int(folder.name))
    return sorted(found)


def test_a_case_whose_worker_is_killed_is_run_once_more_and_the_verdict_is_the_same(tmp_path: Path) -> None:
    ours = ("PACK_", "INVARLOCK_", "PYTEST_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-m", "pytest", "suites", "-k", "mistral", "-n", "2", "-p", "no:cacheprovider"]
    directory = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--output-dir", str(directory)],
        cwd=ROOT,
        env={**clean, **SMALL},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    # a worker is in the middle of a case as long as its subject is there
    while not list(directory.glob("*/models/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(workers(process.pid)[0], signal.SIGKILL)

    output, _ = process.communicate(timeout=300)

    assert process.returncode == 0, output
    assert "Verdict: PASS" in output
    report = json.loads((directory / "evidence_pack/metadata/pytest_report.json").read_bytes())
    assert report["summary"] == {"passed": 22, "total": 22, **selected(report)}
    assert not list(directory.glob("*/models/*"))
    done = subprocess.run(
        [sys.executable, "-m", "invarlock.packer", "verify", str(directory / "evidence_pack"), "--strict"], check=False
    )
    assert done.returncode == 0


def selected(report: dict[str, dict[str, int]]) -> dict[str, int]:
    return {key: value for key, value in report["summary"].items() if key in ("collected", "deselected")}


# In the middle of each stage: before what it made gets its name, or, for evaluation, when the subject is loaded.
# Each case loses one worker, since one that kills two fails.
STAGES = {
    "mistral-tiny-noop_control-run1": ("os.rename", "models/embedded__mistral-tiny/baseline"),
    "mistral-tiny-nan_injection-run1": ("os.rename", "embedded__mistral-tiny/models/error_nan_injection"),
    "mixtral-tiny-noop_control-run1": ("os.rename", "embedded__mixtral-tiny/baseline/evaluation.report.json"),
    "mixtral-tiny-nan_injection-run1": ("open", "embedded__mixtral-tiny/models/error_nan_injection/config.json"),
    "qwen2-tiny-noop_control-run1": ("os.rename", "presets/embedded__qwen2-tiny/null_run_2.json"),
    "qwen2-tiny-nan_injection-run1": ("os.rename", "reports/errors/nan_injection/evaluation.report.json"),
}
KILL = """

import json, os, pathlib, signal, sys
STAGES = {stages!r}
KILLED = pathlib.Path(__file__).parent / "killed"
KILLED.mkdir(exist_ok=True)

def kill(event, arguments):
    if event not in ("open", "os.rename"):
        return
    case = os.environ.get("PYTEST_CURRENT_TEST", "").partition("[")[2].partition("]")[0]
    wanted, place = STAGES.get(case, ("", ""))
    if event == wanted and str(arguments[event == "os.rename"]).endswith(place) and not (KILLED / case).exists():
        (KILLED / case).touch()
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
"""


def test_workers_killed_in_the_middle_of_each_stage_change_nothing(
    run_pytest: Callable[..., Any], own_suites: Path
) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write(KILL.format(stages=STAGES))

    ran = run_pytest(
        "-k",
        "noop or nan_injection",
        "-n",
        "1",
        "--max-worker-restart",
        "9",
        suites=own_suites,
        DRIFT_CALIBRATION_RUNS="2",
    )

    assert ran.status == 0, ran.output
    assert {path.name for path in (own_suites / "killed").iterdir()} == STAGES.keys()
    report = json.loads((ran.pack / "metadata/pytest_report.json").read_bytes())
    assert {test["outcome"] for test in report["tests"]} == {"passed"}
    assert len(list(ran.pack.glob("reports/**/evaluation.report.json"))) == len(STAGES)
    left = [path for path in ran.directory.rglob("*") if "staging" in path.name or path.suffix in (".tmp", ".stale")]
    assert left == []
    assert not list(ran.directory.glob("*/models/*"))


def test_a_case_that_runs_out_of_memory_is_run_once_more_with_twice_as_much(
    run_pytest: Callable[..., Any], own_suites: Path
) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        # a plan that is too small for this model, which it is not by default
        stream.write("\n\nfrom invarlock.harness import memory_plan\n\nmemory_plan.OVERHEAD_BYTES['cpu'] = 0\n")
    select = ("-k", "mistral and noop")

    two = run_pytest(*select, "-n", "2", suites=own_suites, GPU_MEMORY_PER_DEVICE="0.005")
    one = run_pytest(*select, suites=own_suites, directory=two.directory.parent / "one", GPU_MEMORY_PER_DEVICE="0.005")

    log = (two.directory / "logs/mistral-tiny-noop_control-run1.log").read_text()
    assert two.status == 0, two.output
    assert log.count("out of memory with 5 MB; once more with 9 MB") == 1
    assert one.status == 1
    assert "one window of 128 tokens does not fit in the memory of cpu" in one.output
    assert "Traceback" not in one.output
