"""The interface of a cluster engine that the controller of a fleet uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from invarlock.harness.fleet.agreement import NodeFacts
from invarlock.harness.fleet.archives import Archive
from invarlock.harness.fleet.node import Part, WorkOrder


@dataclass(frozen=True)
class Need:
    """The resources that a piece needs on its node.

    Attributes:
        gpus: the number of GPUs.
        cores: the number of CPU cores.
        memory_bytes: the memory needed on a node without GPUs.
        nodes: the ids of the nodes that have enough memory on this number of GPUs; empty if all nodes do.
    """

    gpus: int = 0
    cores: int = 1
    memory_bytes: int = 0
    nodes: frozenset[str] = frozenset()


class Cluster(Protocol):
    """A connection to a cluster that runs pieces."""

    def names(self) -> dict[str, str]:
        """Return the name of each known node in messages, by its id."""

    def facts(self, suites: Path, determinism: str, *, gpus: bool) -> dict[str, NodeFacts]:
        """Return the facts of each node that can be queried before the first piece runs, by the node's id."""

    def cores_per_gpu(self) -> int:
        """Return the number of CPU cores for each GPU."""

    def slots(self, need: Need) -> int | None:
        """Return how many pieces with a need can run at the same time; None if a queue accepts all pieces at once."""

    def share(self, archive: Archive) -> Any:
        """Make an archive available to all nodes, and return the reference to it that ``submit`` expects."""

    def submit(self, order: WorkOrder, files: Sequence[Any], need: Need) -> None:
        """Submit a piece; the engine may delay this until the next ``flush``."""

    def flush(self) -> None:
        """Submit all pieces that were not submitted yet."""

    def wait(self, *, block: bool) -> tuple[int, str, Part] | None:
        """Return the number, the node's id and the part of a piece that ended; the id is empty if the piece is lost.

        Args:
            block: whether to wait until a piece ends; otherwise return None if no piece has ended.
        """

    @property
    def running(self) -> int:
        """Return the number of submitted pieces that have not ended."""

    def close(self) -> None:
        """Cancel running pieces, and disconnect."""
