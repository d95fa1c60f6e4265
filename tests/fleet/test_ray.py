"""A fleet on a real Ray cluster: nodes of this machine, each with its own raylet. `tox -e ray` runs these tests."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.trust.keys import make_signing_key, write_key_pair
from processes import ROOT, SMALL, Done, finish, packer, start_pytest, succeed

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
# five subjects on two models
SELECT = "(mistral and (noop or prune_50 or ve_mlp)) or (qwen2 and (nan_injection or noop))"
CLIENT_PORT = 23017
TIMES = {"telemetry", "timestamp", "generated_at", "generated_at_utc", "seconds", "stages", "by_category", "by_model"}
DIGESTS = {"report_sha256", "sha256", "digest", "checksums_sha256_digest", "signing_key_fingerprint"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for cases, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": CLIENT_PORT}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("key")
    write_key_pair(folder / "maker", make_signing_key())
    return folder / "maker.pem"


def start(directory: Path, *arguments: object, **variables: str) -> Any:
    given = ("suites", "-k", SELECT, "--determinism", "strict", "--output-dir", directory, *arguments)
    return start_pytest(*given, env={**SMALL, "DRIFT_CALIBRATION_RUNS": "2", **variables}, own_group=True)


def start_fleet(cluster: Any, directory: Path, *arguments: object, fleet: str = "ray") -> Any:
    # a second is less than a case takes: each group of cases is a piece
    return start(directory, "--fleet", fleet, "--piece-seconds", "1s", *arguments, RAY_ADDRESS=cluster.address)


def without(document: Any, keys: set[str]) -> Any:
    if isinstance(document, dict):
        return {key: without(value, keys) for key, value in document.items() if key not in keys}
    return [without(value, keys) for value in document] if isinstance(document, list) else document


def contents(pack: Path) -> dict[str, Any]:
    """Return the documents of a pack without times, digests, and what names the fleet."""
    documents = {
        str(path.relative_to(pack)): json.loads(path.read_bytes())
        for path in pack.rglob("*.json")
        if path.name not in ("evaluate_timing.json", "manifest.signature.json")
    }
    documents.pop("metadata/settings.json", None)
    for name in ("run_dir", "invocation"):
        del documents["manifest.json"][name]
    documents["metadata/environment.json"].pop("nodes", None)
    return {name: without(document, TIMES | DIGESTS) for name, document in documents.items()}


@pytest.fixture(scope="module")
def undivided(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    directory = tmp_path_factory.mktemp("undivided") / "run"
    succeed(finish(start(directory, "--signing-key", key)))
    return directory / "evidence_pack"


def check_same(done: Done, directory: Path, undivided: Path) -> None:
    succeed(done)
    pack = directory / "evidence_pack"
    assert contents(pack) == contents(undivided)
    assert {str(path.relative_to(pack)) for path in pack.rglob("*")} == {
        str(path.relative_to(undivided)) for path in undivided.rglob("*")
    }
    succeed(packer("verify", pack, "--strict", "--require-pass", "--quiet"))


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


def test_a_piece_whose_session_dies_is_run_once_more(cluster: Any, undivided: Path, key: Path, tmp_path: Path) -> None:
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    wait_for(piece_sessions, process)

    os.kill(piece_sessions()[0], signal.SIGKILL)

    done = finish(process)
    check_same(done, tmp_path / "run", undivided)
    assert "1 case lost, to be run once more: its session ended with exit code -9" in done.stdout


def test_a_case_that_is_lost_twice_fails_and_the_others_go_on(cluster: Any, key: Path, tmp_path: Path) -> None:
    process = start_fleet(cluster, tmp_path / "run", "--signing-key", key)
    lost: list[str] = []
    while process.poll() is None:
        for session in piece_sessions():
            with contextlib.suppress(OSError, ValueError):
                name = cases_of(session)
                if name and "nan_injection" in name[0]:
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


def cases_of(session: int) -> list[str]:
    """Return the cases of the piece that a process runs."""
    variables = Path(f"/proc/{session}/environ").read_bytes().split(b"\0")
    piece = next(value for value in variables if value.startswith(b"PACK_PIECE="))
    cases: list[str] = json.loads(Path(os.fsdecode(piece.removeprefix(b"PACK_PIECE="))).read_bytes())["cases"]
    return cases


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


def test_without_a_cluster_nothing_begins(tmp_path: Path) -> None:
    done = finish(start(tmp_path / "run", "--fleet", "ray", RAY_ADDRESS="127.0.0.1:1"))

    assert done.returncode == 4
    assert "no Ray cluster answers" in done.stdout
    assert not (tmp_path / "run").exists()


def piece_sessions() -> list[int]:
    """Return the processes in which nodes run pieces."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if b"/invarlock-piece-" in line and os.fsencode(ROOT) in line:
                found.append(int(path.parent.name))
    return found


def wait_for(happened: Any, process: Any) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
