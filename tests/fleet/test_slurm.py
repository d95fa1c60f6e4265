"""A fleet on a real Slurm cluster of two nodes on this machine.

The first test takes about a minute and runs wherever Slurm works; `tox -e slurm` runs all of them.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fleet_runs import SELECT, check_pack, check_same, outcomes_of, start_run, wait_for, wait_until
from invarlock.packer.trust.keys import fingerprint, load_signing_key
from processes import ROOT, SMALL, finish, packer, pytest_command, succeed
from slurm_here import NotStartedError, missing, slurm, slurm_cluster

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
# Timeout of the small test, in seconds. The test takes a minute on an idle machine.
SMALL_SECONDS = 600.0
long = pytest.mark.skipif("INVARLOCK_TEST_SLURM" not in os.environ, reason="minutes: tox -e slurm")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster"))
        except NotStartedError as error:
            pytest.skip(str(error))
        yield made


def start(directory: Path, variables: dict[str, str], *arguments: object) -> Any:
    given = ("--fleet", "slurm", "--piece-seconds", "1s", "--slurm", "cpus_per_task=1", "--slurm", "timeout_min=30")
    return start_run(directory, *given, *arguments, **variables)


def jobs(variables: dict[str, str], *states: str) -> list[str]:
    """Return the ids of the jobs in the given states, by default of those that are running."""
    chosen = f"--states={','.join(states or ('RUNNING',))}"
    return slurm(variables, "squeue", "--noheader", "--array", chosen, "--format=%i").split()


def array_of_three(variables: dict[str, str]) -> list[str]:
    """Return the ids of the jobs of the array with three jobs, or an empty list if it is not submitted yet."""
    known = jobs(variables, "all")
    arrays = {job.partition("_")[0] for job in known}
    return next((own for array in arrays if len(own := [job for job in known if job.startswith(f"{array}_")]) == 3), [])


def test_an_array_of_three_with_a_requeued_job_makes_a_signed_pack(
    variables: dict[str, str], key: Path, tmp_path: Path
) -> None:
    selected = "mistral and (noop or prune_50 or ve_mlp)"
    process = start(tmp_path / "run", variables, "-k", selected, "--signing-key", key)
    try:
        # the first job measures the baseline; each job of the array after it runs a case
        wait_for(lambda: array_of_three(variables), process, SMALL_SECONDS)
        wait_for(lambda: set(array_of_three(variables)) & set(jobs(variables)), process, SMALL_SECONDS)
        job = next(job for job in jobs(variables) if job in array_of_three(variables))
        slurm(variables, "scontrol", "requeue", job)
        wait_for(lambda: job in jobs(variables, "PENDING"), process, SMALL_SECONDS)
        # otherwise Slurm would wait two minutes before it restarts the job
        slurm(variables, "scontrol", "update", f"JobId={job}", "StartTime=now")
        assert "Restarts=1" in slurm(variables, "scontrol", "show", "job", job)

        done = finish(process, SMALL_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    succeed(done)
    pack = tmp_path / "run/evidence_pack"
    signer = fingerprint(load_signing_key(key).public)
    succeed(packer("verify", pack, "--strict", "--require-pass", "--expected-fingerprint", signer))
    assert sum(node["cases"] for node in json.loads((pack / "metadata/environment.json").read_bytes())["nodes"]) == 3


@long
def test_the_pack_of_a_slurm_array_equals_that_of_one_machine_though_a_job_is_requeued(
    variables: dict[str, str], undivided: Path, key: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "run", variables, "--signing-key", key, "--slurm", "array_parallelism=2")
    wait_for(lambda: jobs(variables), process)

    subprocess.run(["scontrol", "requeue", jobs(variables)[0]], env={**os.environ, **variables}, check=True)

    check_same(finish(process), tmp_path / "run", undivided)
    pack = tmp_path / "run/evidence_pack"
    nodes = json.loads((pack / "metadata/environment.json").read_bytes())["nodes"]
    assert [node["number"] for node in nodes] == [1, 2]
    assert sum(node["cases"] for node in nodes) == 5
    assert jobs(variables) == []
    assert not (tmp_path / "run/logs/slurm").exists()


@long
def test_the_cases_of_a_cancelled_job_are_run_once_more(
    variables: dict[str, str], undivided: Path, key: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "run", variables, "--signing-key", key)
    wait_for(lambda: jobs(variables), process)

    subprocess.run(["scancel", jobs(variables)[0]], env={**os.environ, **variables}, check=True)

    done = finish(process)
    check_same(done, tmp_path / "run", undivided)
    # the first job of a model measures its baseline
    assert "to be measured with a case: " in done.stdout


@long
def test_a_controller_that_is_killed_cancels_its_jobs_when_it_continues(
    variables: dict[str, str], undivided: Path, key: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "run", variables, "--signing-key", key)
    wait_for(lambda: outcomes_of(tmp_path / "run"), process)
    wait_for(lambda: jobs(variables), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before, left = outcomes_of(tmp_path / "run"), jobs(variables)

    done = finish(start(tmp_path / "run", variables, "--signing-key", key, "--resume"))

    check_same(done, tmp_path / "run", undivided)
    assert 0 < len(before) < 5
    assert left
    assert {name: outcomes_of(tmp_path / "run")[name] for name in before} == before


@long
def test_a_controller_that_is_a_job_continues_when_it_is_requeued(
    variables: dict[str, str], undivided: Path, key: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pieces = ("--fleet", "slurm", "--piece-seconds", "1s", "--slurm", "cpus_per_task=1", "--slurm", "timeout_min=30")
    options = (*pieces, "--determinism", "strict", "--output-dir", str(run), "--signing-key", str(key))
    command = shlex.join(pytest_command("suites", "-k", SELECT, *options))
    # like the script in docs/fleet.md
    script = f"resume=\nif [ -e {run}/state/settings.json ]; then resume=--resume; fi\n{command} $resume"
    environment = {**variables, **SMALL, "DRIFT_CALIBRATION_RUNS": "2"}
    output = f"--output={tmp_path / 'controller.log'}"
    given = ("--parsable", "--requeue", "--cpus-per-task=1", f"--chdir={ROOT}", output, "--open-mode=append")
    job = slurm(environment, "sbatch", *given, "--wrap", script).strip()
    assert job, "sbatch failed"

    wait_until(lambda: outcomes_of(run))
    slurm(variables, "scontrol", "requeue", job)
    wait_until(lambda: job in jobs(variables, "PENDING"))
    before = outcomes_of(run)
    slurm(variables, "scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: job not in jobs(variables, "PENDING", "RUNNING", "COMPLETING"))

    check_pack(run / "evidence_pack", undivided)
    assert 0 < len(before) < 5
    assert {name: outcomes_of(run)[name] for name in before} == before
    assert jobs(variables, "RUNNING", "PENDING") == []


@long
def test_a_controller_that_is_interrupted_cancels_its_jobs(
    variables: dict[str, str], key: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "run", variables, "--signing-key", key)
    wait_for(lambda: jobs(variables), process)

    os.killpg(process.pid, signal.SIGINT)

    done = finish(process)
    assert done.returncode == 2, done.stdout
    assert "the run was interrupted: verdict at " in done.stdout
    assert "Traceback" not in done.stdout
    assert jobs(variables, "RUNNING", "PENDING") == []


@long
def test_a_partition_that_slurm_does_not_have_is_refused(variables: dict[str, str], tmp_path: Path) -> None:
    done = finish(start(tmp_path / "run", variables, "--slurm", "partition=elsewhere"))

    assert done.returncode == 2, done.stdout
    refused = [line for line in done.stdout.splitlines() if "invalid partition specified: elsewhere" in line]
    assert len(refused) == 1
    assert "[setting_invalid]" in refused[0]
    assert "Traceback" not in done.stdout


@long
def test_a_run_directory_that_the_nodes_do_not_share_is_refused(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    with slurm_cluster(tmp_path / "cluster", hidden) as variables:
        done = finish(start(hidden / "run", variables))

    assert done.returncode == 2, done.stdout
    assert "use a run directory (--output-dir) on a file system that all nodes share, at the same path" in done.stdout
    assert "Traceback" not in done.stdout


@long
def test_a_node_whose_disk_is_full_is_named(variables: dict[str, str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "none", str(disk)], check=True)
    try:
        done = finish(start(tmp_path / "run", {**variables, "TMPDIR": str(disk)}))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

    assert done.returncode == 2, done.stdout
    line = next(line for line in done.stdout.splitlines() if "GB free, the run needs" in line)
    assert "node n" in line
    assert "continue with --resume [run_cannot_begin]" in line
    assert "Traceback" not in done.stdout


@long
def test_an_unknown_parameter_is_refused(variables: dict[str, str], tmp_path: Path) -> None:
    done = finish(start(tmp_path / "run", variables, "--slurm", "partitions=gpu"))

    assert done.returncode == 4
    assert "slurm_partitions" in done.stdout
    assert "[setting_invalid]" in done.stdout
    assert not (tmp_path / "run").exists()
