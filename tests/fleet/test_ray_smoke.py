"""The smoke suite on four Ray nodes of this machine, each with a nominal GPU. `tox -e ray` runs this test."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_runs import check_same
from processes import finish, start_pytest, succeed

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
NODES = 4
# On two cores, four nodes take ten minutes, because each piece starts a session.
SECONDS = 3600.0


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head node that runs no cases, and four nodes that run one case at a time."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):
        made.add_node(num_cpus=1, num_gpus=1)
    yield made
    made.shutdown()


def start_smoke(directory: Path, key: Path, *arguments: object, **variables: str) -> Any:
    given = ("suites", "--determinism", "strict", "--output-dir", directory, "--signing-key", key, *arguments)
    return start_pytest(*given, env={"OMP_NUM_THREADS": "1", **variables}, own_group=True)


def test_the_pack_of_four_nodes_equals_that_of_one_machine(cluster: Any, key: Path, tmp_path: Path) -> None:
    # with xdist workers, pytest would not count the deselected tests
    succeed(finish(start_smoke(tmp_path / "one", key), SECONDS))

    done = finish(start_smoke(tmp_path / "fleet", key, "--fleet", "ray", RAY_ADDRESS=cluster.address), SECONDS)

    check_same(done, tmp_path / "fleet", tmp_path / "one/evidence_pack")
    environment = json.loads((tmp_path / "fleet/evidence_pack/metadata/environment.json").read_bytes())
    verdict = json.loads((tmp_path / "fleet/reports/final_verdict.json").read_bytes())
    assert [node["number"] for node in environment["nodes"]] == list(range(1, NODES + 1))
    assert sum(node["cases"] for node in environment["nodes"]) == verdict["counts"]["records_passed"] >= 66
