"""Killed runs, and their continuation with ``--resume``."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from killed_runs import contents, group, leftovers

from invarlock.problems import Code

ROOT = Path(__file__).parents[3]
SELECT = ("-k", "mistral and (noop or nan_injection or prune_clean or ve_mlp)", "--determinism", "strict")
SMALL = {**processes.SMALL, "DRIFT_CALIBRATION_RUNS": "0"}
FAULTS = ("nan_injection", "ve_mlp_scale_skew")
REPORT = "embedded__mistral-tiny/reports/prune_clean/run_1/evaluation.report.json"
# benchmarks/reliability.py kills many more runs
KILLS = 2
RunPytest = Callable[..., Any]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    # no workers, because each would import PyTorch; the run leaves the same files
    processes.succeed(processes.run_pytest("suites", *SELECT, "-q", "--output-dir", directory, env=SMALL))
    return directory


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run with two workers in its own process group."""
    given = ("suites", *SELECT, "-n", "2", "-q", "--output-dir", directory, *arguments)
    return processes.start_pytest(*given, env=SMALL, output=subprocess.DEVNULL, own_group=True)


def copied(run: Path, tmp_path: Path) -> Path:
    """Return a copy of a run in its state before the verdict."""
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
    # until its state is written, there is nothing to resume
    while not (directory / "state" / "plan.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(moment)
    # kill only the controller: its workers end with it
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    if (directory / "evidence_pack").exists():
        shutil.rmtree(directory / "evidence_pack")

    ran = resume(run_pytest, directory, "-n", "2")

    assert ran.status == 0, ran.output
    assert group(process.pid) == []
    assert contents(directory) == contents(undisturbed)
    assert leftovers(directory) == []


def test_after_ctrl_c_the_verdict_says_what_is_missing_and_resume_goes_on(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    process = start(directory)
    deadline = time.monotonic() + 120
    while not list(directory.glob("*/reports/**/runtime.manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    # a terminal sends SIGINT to all processes of the group
    os.killpg(process.pid, signal.SIGINT)
    status = process.wait(60)
    verdict = json.loads((directory / "reports/final_verdict.json").read_bytes())
    packed = (directory / "evidence_pack").exists()
    ran = resume(run_pytest, directory, "-n", "2")

    assert status == pytest.ExitCode.INTERRUPTED
    assert group(process.pid) == []
    assert (verdict["verdict"], packed) == ("FAIL", False)
    missing = verdict["missing"]["by_model"]["embedded/mistral-tiny"]
    assert len(missing) + len(verdict["records"]) == 4
    assert missing
    assert ran.status == 0, ran.output
    assert contents(directory) == contents(undisturbed)
    assert leftovers(directory) == []


def test_finished_work_is_kept_and_the_remains_of_a_killed_session_are_removed(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)
    reports = list(directory.glob("*/reports/**/evaluation.report.json"))
    before = {path: path.stat().st_mtime_ns for path in reports}
    models = directory / "embedded__mistral-tiny/models"
    unfinished = ("error_inf_injection", "null_run_1", "prune_clean__run_2", ".prune_clean.staging-0123abcd")
    # a subject as --keep-models leaves it, whose case is done
    for name in ("error_nan_injection", *unfinished):
        (models / name).mkdir(parents=True)
    (directory / "reports/.final_verdict.json.ab_12xyz.tmp").write_text("{")
    (directory / "state/locks/devices/00000000000000000001-1.ticket").touch()

    ran = resume(run_pytest, directory)

    assert ran.status == 0, ran.output
    assert len(reports) == 4
    assert {path: path.stat().st_mtime_ns for path in reports} == before
    assert not list(directory.rglob("*.stale"))
    assert [path.name for path in models.iterdir()] == ["error_nan_injection"]
    (models / "error_nan_injection").rmdir()
    assert leftovers(directory) == []


def test_invalid_reports_are_made_again_and_the_old_ones_are_kept(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)
    reports = directory / "embedded__mistral-tiny/reports"
    of_another, forged = (reports / name / "run_1/evaluation.report.json" for name in ("prune_clean", "noop_control"))
    cut_off, alone = (reports / "errors" / name / "evaluation.report.json" for name in FAULTS)
    for name in ("evaluation.report.json", "runtime.manifest.json", "edit_metadata.json", "evaluate_timing.json"):
        shutil.copy(forged.with_name(name), of_another.with_name(name))
    forged.write_text(forged.read_text().replace('"degraded": false', '"degraded": true', 1))
    cut_off.write_bytes(cut_off.read_bytes()[:1000])
    alone.with_name("runtime.manifest.json").unlink()

    ran = resume(run_pytest, directory)

    assert ran.status == 0, ran.output
    assert contents(directory) == contents(undisturbed)
    assert {path.with_suffix("") for path in directory.rglob("*.stale")} == {of_another, forged, cut_off, alone}


def test_other_limits_or_another_baseline_make_everything_anew(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)

    ran = resume(run_pytest, directory, "--tier", "aggressive")

    assert ran.status == 0, ran.output
    # the baseline's report contains the tier too
    assert len(list(directory.rglob("*.stale"))) == 5
    assert json.loads((directory / REPORT).read_bytes())["context"]["tier"] == "aggressive"


def test_a_run_with_a_link_for_a_folder_of_reports_is_not_resumed(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)
    reports = (directory / REPORT).parent
    reports.rename(tmp_path / "elsewhere")
    reports.symlink_to(tmp_path / "elsewhere")

    ran = resume(run_pytest, directory)

    assert (ran.status, f"{reports} is a symbolic link" in ran.output) == (4, True), ran.output
    assert not list((tmp_path / "elsewhere").glob("*.stale"))


def test_a_run_that_cannot_be_resumed_is_refused_on_one_line(
    undisturbed: Path, run_pytest: RunPytest, tmp_path: Path
) -> None:
    directory = copied(undisturbed, tmp_path)

    other = run_pytest("-k", "mistral and noop", "--resume", directory=directory)
    none = run_pytest("-k", "mistral and noop", "--resume", directory=tmp_path / "none")
    finished = resume(run_pytest, undisturbed)
    first = processes.run_pytest(str(ROOT / "suites"), *SELECT, "--resume", cwd=tmp_path, env=SMALL)
    again = run_pytest(*SELECT, directory=directory)

    assert (other.status, f"[{Code.RUN_DIFFERS}]" in other.output) == (4, True), other.output
    assert (none.status, "is not a run directory; drop --resume" in none.output) == (4, True), none.output
    assert not (tmp_path / "none").exists()
    assert finished.status == 4
    assert f"is finished, and its pack is {undisturbed / 'evidence_pack'}" in finished.output, finished.output
    assert "--pack-dir" not in finished.output
    missing = f"no earlier run of suite smoke in {tmp_path / 'evidence_pack_runs'}; leave --resume out"
    assert (first.returncode, missing in first.stdout + first.stderr) == (4, True), first.stdout + first.stderr
    assert (again.status, "continue with --resume" in again.output) == (4, True), again.output
