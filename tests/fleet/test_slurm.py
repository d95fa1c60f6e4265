"""A fleet on a real Slurm cluster of two nodes on this machine. `tox -e slurm` runs these tests."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_runs import check_same, outcomes_of, start_run, wait_for
from processes import finish
from slurm_here import missing, slurm_cluster

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as made:
        yield made


def start(directory: Path, variables: dict[str, str], *arguments: object) -> Any:
    given = ("--fleet", "slurm", "--piece-seconds", "1s", "--slurm", "cpus_per_task=1", "--slurm", "timeout_min=30")
    return start_run(directory, *given, *arguments, **variables)


def jobs(variables: dict[str, str]) -> list[str]:
    command = ["squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i"]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


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


def test_an_unknown_parameter_is_refused(variables: dict[str, str], tmp_path: Path) -> None:
    done = finish(start(tmp_path / "run", variables, "--slurm", "partitions=gpu"))

    assert done.returncode == 4
    assert "slurm_partitions" in done.stdout
    assert "[setting_invalid]" in done.stdout
    assert not (tmp_path / "run").exists()
