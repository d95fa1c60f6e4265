"""A fleet on a real Ray cluster whose nodes are raylets on this machine. `tox -e ray` runs these tests."""

import contextlib
import json
import os
import random
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_runs import case_sessions, check_same, piece_of, piece_sessions, start_run, wait_for
from processes import ROOT, finish

from invarlock.harness.fleet.ray_cluster import ANSWER_SECONDS

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
CLIENT_PORT = 23017
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node that runs no cases, and two nodes that run one case at a time."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": CLIENT_PORT}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def ray_address() -> str:
    """Return this machine's address in Ray, which would replace a loopback address by it anyway."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def start_fleet(cluster: Any, directory: Path, *arguments: object, fleet: str = "ray") -> Any:
    # one second is less than a case takes, so each group of cases becomes a piece
    return start_run(directory, "--fleet", fleet, "--piece-seconds", "1s", *arguments, RAY_ADDRESS=cluster.address)


def test_the_pack_of_a_fleet_equals_that_of_one_machine(
    cluster: Any, undivided: Path, key: Path, tmp_path: Path
) -> None:
    done = finish(start_fleet(cluster, tmp_path / "run", "--signing-key", key))

    check_same(done, tmp_path / "run", undivided)
    pack = tmp_path / "run/evidence_pack"
    nodes = json.loads((pack / "metadata/environment.json").read_bytes())["nodes"]
    assert [node["number"] for node in nodes] == [1, 2]
    assert sum(node["cases"] for node in nodes) == 5
    text = "".join(path.read_text("utf-8") for path in pack.rglob("*.json"))
    assert not any(name in text for name in (f'"{os.uname().nodename}"', cluster.head_node.node_ip_address, "ray://"))
    parameters = json.loads((pack / "manifest.json").read_bytes())["invocation"]["parameters"]
    assert parameters["fleet"] == {"source": "option", "value": "ray"}
    progress = json.loads((tmp_path / "run/state/progress.json").read_bytes())
    assert progress["cases"] == {"total": 5, "done": 5, "passed": 5, "failed": 0}


def test_a_controller_outside_of_the_cluster_gets_the_same_pack(
    cluster: Any, undivided: Path, key: Path, tmp_path: Path
) -> None:
    pytest.importorskip("grpc")
    address = f"ray://127.0.0.1:{CLIENT_PORT}"

    done = finish(start_fleet(cluster, tmp_path / "run", "--signing-key", key, fleet=address))

    check_same(done, tmp_path / "run", undivided)
    parameters = json.loads((tmp_path / "run/evidence_pack/manifest.json").read_bytes())["invocation"]["parameters"]
    assert parameters["fleet"] == {"source": "option", "value": "ray"}


def test_a_node_that_is_killed_changes_nothing(cluster: Any, undivided: Path, key: Path, tmp_path: Path) -> None:
    extra = cluster.add_node(num_cpus=1)
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    wait_for(lambda: list((tmp_path / "run/state").glob("outcomes/*.json")), process)

    cluster.remove_node(extra, allow_graceful=False)

    check_same(finish(process), tmp_path / "run", undivided)


@pytest.mark.parametrize("seed", range(int(os.environ.get("INVARLOCK_TEST_KILLS", "5"))))
def test_a_node_that_is_killed_at_a_random_moment_changes_nothing(
    seed: int, cluster: Any, undivided: Path, key: Path, tmp_path: Path
) -> None:
    moment = random.Random(seed)
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    # a random moment between the start of the first piece and about the last piece
    wait_for(piece_sessions, process)
    time.sleep(moment.uniform(0.0, 40.0))

    killed = moment.choice(list(cluster.worker_nodes))
    cluster.remove_node(killed, allow_graceful=False)
    cluster.add_node(num_cpus=1)

    check_same(finish(process), tmp_path / "run", undivided)


@pytest.mark.skipif(not os.access(MEMORY_CGROUPS, os.W_OK), reason="needs root and memory cgroups")
def test_a_piece_that_the_kernel_stops_because_memory_runs_out_is_run_once_more(
    cluster: Any, undivided: Path, key: Path, tmp_path: Path
) -> None:
    group = MEMORY_CGROUPS / f"invarlock-test-{os.getpid()}"
    group.mkdir()
    try:
        # less memory than importing torch needs
        (group / "memory.limit_in_bytes").write_text("100M")
        process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
        wait_for(case_sessions, process)

        (group / "cgroup.procs").write_text(str(case_sessions()[0]))

        done = finish(process)
        assert "oom_kill 1" in (group / "memory.oom_control").read_text()
    finally:
        group.rmdir()
    check_same(done, tmp_path / "run", undivided)
    assert "1 case lost, to be run once more: its session ended with exit code -9" in done.stdout


def test_a_baseline_whose_session_dies_is_measured_with_a_case(
    cluster: Any, undivided: Path, key: Path, tmp_path: Path
) -> None:
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    wait_for(piece_sessions, process)

    os.kill(piece_sessions()[0], signal.SIGKILL)

    done = finish(process)
    check_same(done, tmp_path / "run", undivided)
    assert "to be measured with a case: its session ended with exit code -9" in done.stdout


def test_a_controller_that_is_killed_continues_with_what_is_joined(
    cluster: Any, undivided: Path, key: Path, tmp_path: Path
) -> None:
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    outcomes = tmp_path / "run/state/outcomes"
    wait_for(lambda: list(outcomes.glob("*.json")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path.name: path.read_bytes() for path in outcomes.glob("*.json")}

    done = finish(start_fleet(cluster, tmp_path / "run", "--signing-key", key, "--resume"))

    check_same(done, tmp_path / "run", undivided)
    assert before
    assert len(before) < 5
    assert {name: (outcomes / name).read_bytes() for name in before} == before


def test_a_controller_that_is_interrupted_ends_its_pieces(cluster: Any, key: Path, tmp_path: Path) -> None:
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    wait_for(piece_sessions, process)

    os.killpg(process.pid, signal.SIGINT)

    done = finish(process)
    assert done.returncode == 2, done.stdout
    assert "the run was interrupted: verdict at " in done.stdout
    assert "Traceback" not in done.stdout
    deadline = time.monotonic() + 60
    while piece_sessions():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_piece_whose_session_dies_is_run_once_more(cluster: Any, undivided: Path, key: Path, tmp_path: Path) -> None:
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    wait_for(case_sessions, process)

    os.kill(case_sessions()[0], signal.SIGKILL)

    done = finish(process)
    check_same(done, tmp_path / "run", undivided)
    assert "1 case lost, to be run once more: its session ended with exit code -9" in done.stdout


def test_a_case_that_is_lost_twice_fails_and_the_others_go_on(cluster: Any, key: Path, tmp_path: Path) -> None:
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    lost: list[str] = []
    while process.poll() is None:
        for session in piece_sessions():
            with contextlib.suppress(OSError, ValueError, StopIteration):
                name = piece_of(session)["cases"]
                if "nan_injection" in name[0]:
                    os.kill(session, signal.SIGKILL)
                    lost.append(name[0])
        time.sleep(0.05)

    done = finish(process)

    assert done.returncode == 1, done.stdout
    assert "lost twice on the fleet: its session ended with exit code -9" in done.stdout
    verdict = json.loads((tmp_path / "run/reports/final_verdict.json").read_bytes())
    assert verdict["verdict"] == "FAIL"
    assert verdict["counts"]["records_passed"] == 4
    assert len(lost) >= 2


def test_a_node_with_another_library_is_refused_by_name(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "numpy-0.1.dist-info").mkdir()
    (tmp_path / "numpy-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    other = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path)})
    try:
        done = finish(start_fleet(cluster, tmp_path / "run"))
    finally:
        cluster.remove_node(other)

    assert done.returncode == 4
    assert f"Ray node {other.node_id[:8]}): versions: libraries.numpy '0.1', not" in done.stdout
    assert "[node_differs]" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fleet", ["ray", "ray://{}"])
def test_what_listens_and_is_not_a_cluster_is_refused_in_time(fleet: str, tmp_path: Path) -> None:
    with socket.create_server((ray_address(), 0)) as listening:
        address = "{}:{}".format(*listening.getsockname())
        began = time.monotonic()
        done = finish(start_run(tmp_path / "run", "--fleet", fleet.format(address), RAY_ADDRESS=address))

    assert done.returncode == 4
    assert "no Ray cluster answers" in done.stdout
    assert "[device_unavailable]" in done.stdout
    assert "Traceback" not in done.stdout
    assert time.monotonic() - began < 2 * ANSWER_SECONDS
    assert not (tmp_path / "run").exists()


def test_the_commands_of_the_page_are_those_of_ray() -> None:
    from ray.scripts.scripts import cli

    page = (ROOT / "docs/fleet.md").read_text("utf-8")
    lines = [shlex.split(line, comments=True) for line in page.splitlines() if line.startswith("ray ")]
    assert [words[1] for words in lines] == ["start", "stop", "start", "start"]
    for _, name, *arguments in lines:
        command = cli.commands[name]
        with command.context_class(command) as context:
            command.make_parser(context).parse_args(arguments)


def test_without_a_cluster_nothing_begins(tmp_path: Path) -> None:
    done = finish(start_run(tmp_path / "run", "--fleet", "ray", RAY_ADDRESS="127.0.0.1:1"))

    assert done.returncode == 4
    assert "no Ray cluster answers" in done.stdout
    assert not (tmp_path / "run").exists()
