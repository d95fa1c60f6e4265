"""The nodes of a fleet in the state of its run: the facts on which all must agree, and the cases that each node ran.

``state/fleet.json`` lists the nodes in the order in which they returned their first piece, and numbers them in this
order. The cluster's id of a node stays in the state and is not put into a pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from invarlock.documents import JsonObject
from invarlock.documents.provenance import Environment, Node
from invarlock.jsonio import read_json, write_json
from invarlock.packer.runs.merging import merged_environment
from invarlock.packer.runs.run_directory import RunDirectory


@dataclass(frozen=True)
class FleetState:
    """The record of a fleet's run.

    Attributes:
        agreed: settings, versions and source, which are equal on all nodes.
        environments: ``environment.json`` of each node, by the cluster's id of the node.
        cases: the ids of the cases that each node ran.
    """

    agreed: JsonObject
    environments: Mapping[str, JsonObject] = field(default_factory=dict)
    cases: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def with_part(self, node: str, environment: Mapping[str, Any], cases: Sequence[str]) -> FleetState:
        """Return the state extended by the cases of a part that a node returned."""
        known = self.environments.get(node)
        graphics = [one["graphics"] for one in (known, environment) if one is not None]
        most = max(graphics, key=lambda one: len(one["gpus"]))
        ran = list(dict.fromkeys([*self.cases.get(node, ()), *cases]))
        return FleetState(
            self.agreed,
            {**self.environments, node: {**environment, "graphics": most}},
            {**self.cases, node: ran},
        )

    def number(self, node: str) -> int:
        """Return the number of a node that returned a part, counted from 1."""
        return list(self.environments).index(node) + 1

    def write(self, directory: RunDirectory) -> None:
        """Write ``state/fleet.json``."""
        nodes = [
            {"id": node, "environment": document, "cases": list(self.cases[node])}
            for node, document in self.environments.items()
        ]
        write_json(directory.fleet, {"agreed": self.agreed, "nodes": nodes})

    @staticmethod
    def read(directory: RunDirectory) -> FleetState:
        """Read the state of a run."""
        document = read_json(directory.fleet)
        nodes = document["nodes"]
        return FleetState(
            document["agreed"],
            {row["id"]: row["environment"] for row in nodes},
            {row["id"]: row["cases"] for row in nodes},
        )


def fleet_environment(directory: RunDirectory) -> Environment | None:
    """Return the combined environment of a run's nodes, each with its number; None if no node returned a part."""
    state = FleetState.read(directory)
    if not state.environments:
        return None
    nodes: list[Node] = [
        {
            "number": number,
            "platform": document["platform"],
            "graphics": document["graphics"],
            "cases": len(state.cases[node]),
        }
        for number, (node, document) in enumerate(state.environments.items(), 1)
    ]
    merged = merged_environment(list(state.environments.values()))
    return cast("Environment", {**merged, "nodes": nodes})
