"""A Ray cluster that runs pieces: Ray places them, and a piece whose node is lost starts again.

Example::

    cluster = RayCluster("ray://10.0.0.1:10001")
    state = cluster.share(archive)
    cluster.submit(order, [state], Need(gpus=1))
    number, node, part = cluster.wait()
    cluster.close()
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from invarlock.errors import InvarLockError, UsageError
from invarlock.harness.fleet.agreement import NodeFacts, node_facts
from invarlock.harness.fleet.archives import Archive
from invarlock.harness.fleet.cluster import Need
from invarlock.harness.fleet.node import Part, WorkOrder, run_piece
from invarlock.problems import Code

# How often a piece starts again after its node or worker was lost, before its cases count as lost. By default, Ray
# would restart without limit a task that it stopped because memory ran out.
RETRIES = 3
# A node reports its versions within seconds; a worker that imports nothing large starts even faster.
FACTS_SECONDS = 120.0
CONNECT_SECONDS = 10.0
# A server at the address may accept connections but not answer like Ray's client server, for example another port of
# Ray; Ray would retry for minutes.
ANSWER_SECONDS = 120.0
CONNECT = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
# How often to look for pieces whose nodes are lost.
LOST_NODES_SECONDS = 60.0
NODE_LABEL = "ray.io/node-id"
INSTALL = "run: pip install 'invarlock[ray]', on the nodes too"


def check_ray_installed(fleet: str) -> None:
    """Check that Ray is installed, including its client if ``fleet`` is an address.

    Raises:
        UsageError: when it is not; the message has the command that installs it.
    """
    missing = find_spec("ray") is None or ("://" in fleet and find_spec("grpc") is None)
    if missing:
        raise UsageError(f"--fleet {fleet}: Ray is not installed; {INSTALL}", code=Code.EXTRA_NOT_INSTALLED)


@dataclass(frozen=True)
class _Submitted:
    """A piece that has not ended, and how often it was lost."""

    order: WorkOrder
    files: Sequence[Any]
    need: Need
    lost: int = 0


class RayCluster:
    """A connection to a running cluster."""

    def __init__(self, fleet: str) -> None:
        """Connect to the cluster of this machine (``ray``), or to the one at an address (``ray://HOST:PORT``).

        Raises:
            UsageError: when no cluster is found.
        """
        # imported here: a run on one machine does not need it
        import ray

        self._ray = ray
        self._running: dict[Any, _Submitted] = {}
        address = fleet if "://" in fleet else "auto"
        known = fleet if "://" in fleet else os.environ.get("RAY_ADDRESS", "")
        try:
            _check_port(known)
            _check_answer(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="invarlock")
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            why = str(error).strip().split("\n")[0].rstrip(".")
            raise UsageError(
                f"--fleet {fleet}: no Ray cluster answers ({why}); start one with: ray start --head",
                code=Code.DEVICE_UNAVAILABLE,
            ) from None
        # each piece gets a new worker process, so that nothing stays in memory or in variables
        self._piece = ray.remote(max_calls=1)(_run_here)
        self._facts = ray.remote(_facts_here)

    def names(self) -> dict[str, str]:
        """Return the name in messages (host name and address) of each node that is alive, by its id."""
        return {
            str(
                row["NodeID"]
            ): f"{row['NodeManagerHostname']} ({row['NodeManagerAddress']}, Ray node {row['NodeID'][:8]})"
            for row in self._ray.nodes()
            if row["Alive"]
        }

    def facts(self, suites: Path, determinism: str, *, gpus: bool) -> dict[str, NodeFacts]:
        """Return the facts of each node, by its id.

        Raises:
            UsageError: when a node cannot run InvarLock; the message names it.
        """
        # imported here: a run on one machine does not need it
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        waiting = {
            node: self._facts.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            ).remote(suites, determinism, gpus)
            for node in self.names()
        }
        found = {}
        for node, reference in waiting.items():
            try:
                answer = self._ray.get(reference, timeout=FACTS_SECONDS)
            except self._ray.exceptions.RayError as error:
                answer = _reason(error)
            if isinstance(answer, str):
                name = self.names().get(node, f"Ray node {node[:8]}")
                raise UsageError(
                    f"node {name}: {answer}; install the same InvarLock on all nodes, and the suites folder at the "
                    "same path",
                    code=Code.NODE_DIFFERS,
                )
            found[node] = answer
        return found

    def slots(self, need: Need) -> int:
        """Return how many pieces with a need the nodes can run at the same time."""
        rows = [
            row["Resources"]
            for row in self._ray.nodes()
            if row["Alive"] and (not need.nodes or row["NodeID"] in need.nodes)
        ]
        if need.gpus:
            return sum(int(row.get("GPU", 0)) // need.gpus for row in rows)
        return sum(min(int(row.get("CPU", 0)), int(row.get("memory", 0) // max(1, need.memory_bytes))) for row in rows)

    def cores_per_gpu(self) -> int:
        """Return the number of CPU cores for each GPU of the nodes that have GPUs, at least 1."""
        rows = [row["Resources"] for row in self._ray.nodes() if row["Alive"] and row["Resources"].get("GPU", 0) >= 1]
        return max(1, min((int(row.get("CPU", 0) // row["GPU"]) for row in rows), default=1))

    def share(self, archive: Archive) -> Any:
        """Put an archive into the object store, from which each node takes it once."""
        return self._ray.put(archive)

    def submit(self, order: WorkOrder, files: Sequence[Any], need: Need) -> None:
        """Submit a piece.

        Args:
            order: the piece.
            files: the references to its archives that ``share`` returned.
            need: the resources that it needs on its node.
        """
        self._start(_Submitted(order, files, need))

    def _start(self, piece: _Submitted) -> None:
        need = piece.need
        resources: dict[str, Any] = {"num_gpus": need.gpus} if need.gpus else {"memory": need.memory_bytes}
        if need.nodes:
            resources["label_selector"] = {NODE_LABEL: f"in({', '.join(sorted(need.nodes))})"}
        task = self._piece.options(**resources, num_cpus=need.cores, max_retries=0, name=f"piece {piece.order.number}")
        self._running[task.remote(piece.order, *piece.files)] = piece

    def flush(self) -> None:
        """Do nothing: pieces were submitted to Ray at once."""

    def wait(self, *, block: bool) -> tuple[int, str, Part] | None:
        """Return the number, the node's id and the part of a piece that ended; see ``Cluster.wait``."""
        errors = self._ray.exceptions
        while True:
            timeout = LOST_NODES_SECONDS if block else 0.0
            ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
            if not ended and not block:
                return None
            if not ended:
                stranded = self._stranded()
                if stranded is not None:
                    return stranded, "", Part(ended="all nodes with GPUs of the size that it needs are lost")
                continue
            piece = self._running.pop(ended[0])
            try:
                node, part = self._ray.get(ended[0])
            except (errors.NodeDiedError, errors.WorkerCrashedError, errors.ObjectLostError) as error:
                if piece.lost == RETRIES:
                    return piece.order.number, "", Part(ended=_reason(error))
                self._start(replace(piece, lost=piece.lost + 1))
            except errors.RayError as error:
                return piece.order.number, "", Part(ended=_reason(error))
            else:
                return piece.order.number, node, part

    @property
    def running(self) -> int:
        """Return the number of submitted pieces that have not ended."""
        return len(self._running)

    def _stranded(self) -> int | None:
        """Cancel a piece whose nodes are all lost; return its number, or None if no piece waits for such nodes."""
        alive = self.names().keys()
        for reference, piece in self._running.items():
            if piece.need.nodes and not piece.need.nodes & alive:
                self._ray.cancel(reference, force=True)
                del self._running[reference]
                return piece.order.number
        return None

    def close(self) -> None:
        """Cancel running pieces, and disconnect."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        self._ray.shutdown()


def _check_port(address: str) -> None:
    """Check that a server listens at an address, because Ray itself would retry for minutes.

    Raises:
        OSError: if no server listens.
    """
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if parts.hostname is not None and parts.port is not None:
        socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_SECONDS).close()


def _check_answer(address: str) -> None:
    """Check in a separate process that a cluster answers at an address.

    Raises:
        ConnectionError: if no cluster answers.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", CONNECT, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"nothing that speaks Ray's protocol within {ANSWER_SECONDS:.0f} s") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ConnectionError((lines or [f"exit code {done.returncode}"])[-1][:300])


def _run_here(order: WorkOrder, *files: Archive) -> tuple[str, Part]:
    # imported here: a run on one machine does not need it
    import ray

    return ray.get_runtime_context().get_node_id(), run_piece(order, *files)


def _facts_here(suites: Path, determinism: str, gpus: bool) -> NodeFacts | str:
    try:
        return node_facts(suites, determinism, gpus=gpus)
    except InvarLockError as error:
        return str(error)


def _reason(error: Exception) -> str:
    """Return the last line of an error from Ray; the lines before it may be a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    return f"{name}: {(lines or [''])[-1][:300]}"
