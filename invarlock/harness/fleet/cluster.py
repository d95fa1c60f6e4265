"""What the controller of a fleet needs of a cluster engine."""

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
    """What a piece needs of its node.

    Attributes:
        gpus: how many.
        cores: CPU cores.
        memory_bytes: of a node without GPUs.
        nodes: ids of the nodes that have enough memory on so many GPUs; empty if all have.
    """

    gpus: int = 0
    cores: int = 1
    memory_bytes: int = 0
    nodes: frozenset[str] = frozenset()


class Cluster(Protocol):
    """A connection to a cluster that runs pieces."""

    def names(self) -> dict[str, str]:
        """Return how messages name each known node, by its id."""

    def facts(self, suites: Path, determinism: str, *, gpus: bool) -> dict[str, NodeFacts]:
        """Return the facts of each node that can be queried before the first piece, by its id."""

    def cores_per_gpu(self) -> int:
        """Return the number of CPU cores for each GPU."""

    def slots(self, need: Need) -> int | None:
        """Return how many pieces with a need can run at the same time; None if a queue takes all at once."""

    def share(self, archive: Archive) -> Any:
        """Make an archive available to all nodes, and return what ``submit`` takes for it."""

    def submit(self, order: WorkOrder, files: Sequence[Any], need: Need) -> None:
        """Submit a piece, at the latest with the next ``flush``."""

    def flush(self) -> None:
        """Submit what was not submitted yet."""

    def wait(self, *, block: bool) -> tuple[int, str, Part] | None:
        """Return the number, the node's id and the part of a piece that ended; the id is empty if it is lost.

        Args:
            block: wait for one; otherwise return None where no piece has ended.
        """

    @property
    def running(self) -> int:
        """Return the number of submitted pieces that did not end."""

    def close(self) -> None:
        """Cancel what runs, and disconnect."""
