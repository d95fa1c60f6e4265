"""The properties that must be equal on the controller and all nodes of a fleet: versions, source and switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.documents import JsonObject
from invarlock.documents.provenance import SourceRepository
from invarlock.harness.devices.inventory import read_gpus
from invarlock.packer.runs.shards import first_difference, versions
from invarlock.runtime.determinism import determinism_switches
from invarlock.runtime.graphics import graphics
from invarlock.runtime.provenance import environment, source_of


@dataclass(frozen=True)
class NodeFacts:
    """The facts about a machine.

    Attributes:
        versions: the fields of ``environment.json`` that must be equal on all nodes.
        source: the source of the suites folder, None if it is unknown.
        gpu_bytes: the free memory of each GPU if the suite needs GPUs.
    """

    versions: JsonObject
    source: SourceRepository | None
    gpu_bytes: tuple[int, ...] = ()

    def agreed(self) -> JsonObject:
        """Return the facts that must be equal, as a document."""
        return {"versions": self.versions, "source": self.source}


def node_facts(suites: Path, determinism: str, *, gpus: bool) -> NodeFacts:
    """Return the facts of this machine.

    Raises:
        InvarLockError: if the suites folder's marker file is malformed, or GPUs are required and NVML finds none.
    """
    found = environment(determinism_switches(determinism), graphics(()))
    rooms = tuple(gpu.free_bytes for gpu in read_gpus()) if gpus else ()
    return NodeFacts(versions(found), source_of(suites), rooms)


def disagreement(agreed: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Describe the first difference between the agreed facts and those of a node; None if they are equal."""
    for name, ours in agreed.items():
        found = first_difference(other[name], ours)
        if found is not None:
            return f"{name}: {found}"
    return None
