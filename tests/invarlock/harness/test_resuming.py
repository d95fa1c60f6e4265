"""Runs that are killed, and what ``--resume`` makes of them."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SELECT = ("-k", "mistral and (noop or nan_injection or prune_clean or ve_mlp)", "--determinism", "strict")
SMALL = {
    "INVARLOCK_PREVIEW_WINDOWS": "8",
    "INVARLOCK_FINAL_WINDOWS": "16",
    "OMP_NUM_THREADS": "1",
    "DRIFT_CALIBRATION_RUNS": "0",
}
REPORT = "embedded__mistral-tiny/reports/prune_clean/run_1/evaluation.report.json"
KILLS = 4
RunPytest = Callable[..., Any]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(directory)
    assert process.wait(300) == 0
    return directory


def start(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a run with two workers in a process group of its own."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PACK_", "INVARLOCK_", "PYTEST_"))
    }
    command = [sys.executable, "-m", "pytest", "suites", *SELECT, "-n", "2", "-q", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [*command, "--output-dir", str(directory), *arguments],
        cwd=ROOT,
        env={**clean, **SMALL},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def contents(run: Path) -> dict[str, Any]:
    """Return the reports of a run's pack, times aside, and what follows from them."""
    pack = run / "evidence_pack"
    found = {}
    for path in sorted(pack.glob("reports/**/*.json")):
        document = json.loads(path.read_bytes())
        if path.name == "evaluation.report.json":
            document.pop("telemetry")
            document["baseline_ref"].pop("report_sha256")
        if path.name in ("evaluation.report.json", "edit_metadata.json", "ve_probe.json"):
            found[str(path.relative_to(pack))] = document
    verdict = json.loads((pack / "results/final_verdict.json").read_bytes())
    for record in verdict["records"]:
        record.pop("report_sha256")
    verdict.pop("timestamp")
    return {**found, "verdict": verdict}


def copied(run: Path, tmp_path: Path) -> Path:
    """Return a copy of a run as it was before its verdict."""
    target = tmp_path / "run"
    shutil.copytree(run, target)
    shutil.rmtree(target / "evidence_pack")
    return target


def resume(run_pytest: RunPytest, directory: Path, *arguments: str) -> Any:
    return run_pytest(*SELECT, "--resume", *arguments, directory=directory)


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_killed_at_a_random_moment_ends_as_if_nothing_had_happened(
    seed: int, undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    process = start(directory)
    moment = random.Random(seed).uniform(0.5, 9.0)
    deadline = time.monotonic() + 60
    # before its state is there a run is none, and there is nothing to resume
    while not (directory / "state" / "plan.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    if (directory / "evidence_pack").exists():
        shutil.rmtree(directory / "evidence_pack")

    ran = resume(run_pytest, directory, "-n", "2")

    assert ran.status == 0, ran.output
    assert contents(directory) == contents(undisturbed)
    hidden = [path for path in directory.rglob(".*") if path.is_dir()]
    assert hidden == []


def test_what_is_done_is_not_done_again(undisturbed: Path, run_pytest: RunPytest, tmp_path: Path) -> None:
    directory = copied(undisturbed, tmp_path)
    reports = list(directory.glob("*/reports/**/evaluation.report.json"))
    before = {path: path.stat().st_mtime_ns for path in reports}

    ran = resume(run_pytest, directory)

    assert ran.status == 0, ran.output
    assert len(reports) == 4
    assert {path: path.stat().st_mtime_ns for path in reports} == before
    assert not list(directory.rglob("*.stale"))


@pytest.mark.parametrize("harm", ["forged", "cut off", "without its runtime manifest", "of another subject"])
def test_a_report_that_does_not_fit_is_redone_and_kept_beside(
    harm: str, undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)
    path = directory / REPORT
    if harm == "forged":
        path.write_text(path.read_text().replace('"degraded": false', '"degraded": true', 1))
    elif harm == "cut off":
        path.write_bytes(path.read_bytes()[:1000])
    elif harm == "of another subject":
        for name in ("evaluation.report.json", "runtime.manifest.json", "edit_metadata.json", "evaluate_timing.json"):
            shutil.copy(path.parents[2] / "noop_control/run_1" / name, path.with_name(name))
    else:
        path.with_name("runtime.manifest.json").unlink()

    ran = resume(run_pytest, directory)

    assert ran.status == 0, ran.output
    assert contents(directory) == contents(undisturbed)
    assert [stale.relative_to(directory) for stale in directory.rglob("*.stale")] == [Path(f"{REPORT}.stale")]


def test_other_limits_or_another_baseline_make_everything_anew(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)

    ran = resume(run_pytest, directory, "--tier", "conservative")

    assert ran.status == 0, ran.output
    # the baseline's report says the tier too
    assert len(list(directory.rglob("*.stale"))) == 5
    assert json.loads((directory / REPORT).read_bytes())["context"]["tier"] == "conservative"


def test_what_cannot_be_resumed_is_refused_on_one_line(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)

    other = run_pytest("-k", "mistral and noop", "--resume", directory=directory)
    none = run_pytest("-k", "mistral and noop", "--resume", directory=tmp_path / "none")
    finished = resume(run_pytest, undisturbed)
    again = run_pytest(*SELECT, directory=directory)

    assert (other.status, "is a run of something else" in other.output) == (4, True), other.output
    assert (none.status, "holds no run; leave --resume out" in none.output) == (4, True), none.output
    assert not (tmp_path / "none").exists()
    assert (finished.status, "exists; name another folder" in finished.output) == (4, True), finished.output
    assert (again.status, "go on with it: --resume" in again.output) == (4, True), again.output
