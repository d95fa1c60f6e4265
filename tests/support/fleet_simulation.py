"""Simulates how long the ``full`` suite takes on a Ray cluster, with the real code for pieces and placement.

The clock is simulated. Pieces wait in order of submission, and a piece starts as soon as it fits on a node's free GPUs.
The cost model gives the duration of a piece: the start of its session, one read of the baseline's weights, and its
cases. The first piece of a model copies and measures the baseline and makes its preset instead of the read.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.catalog.cases import Case, plan_cases
from invarlock.catalog.costs import Costs, ModelSize
from invarlock.catalog.models import CALIBRATION_RUNS, Model, read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.catalog.shards import divide_cases
from invarlock.harness.devices.inventory import GB, Device, Pool
from invarlock.harness.devices.memory_plan import devices_needed, needed_bytes
from invarlock.harness.fleet.cluster import Need
from invarlock.harness.fleet.pieces import Piece, PieceQueue
from invarlock.harness.fleet.placing import Placing, make_lots

SUITES = Path(__file__).parents[2] / "suites"
# Each node as (number of GPUs, GB of each GPU). MIXED has a cluster for each total number of GPUs.
Nodes = list[tuple[int, int]]
MIXED: dict[int, Nodes] = {
    4: [(2, 80), (2, 141)],
    8: [(4, 80), (4, 141)],
    16: [(8, 80), (8, 141)],
    64: [(8, 80)] * 5 + [(8, 141)] * 3,
}
# The default of --piece-seconds.
PIECE_SECONDS = 1200.0
# Start of a session, as measured on Ray with small models.
START_SECONDS = 8.0
# Time in which the controller checks and joins one part; it joins parts one after the other.
JOIN_SECONDS = 1.0
# Standard deviation of the logarithm of the ratio of a case's drawn time to its estimate.
SPREAD = 0.15


@dataclass(frozen=True)
class Found:
    """The simulation's result, in seconds. No schedule is shorter than ``bound``.

    ``placed`` has each piece with the GB of the GPUs that it ran on.
    """

    makespan: float
    bound: float
    placed: list[tuple[Piece, int]]

    @property
    def ratio(self) -> float:
        return self.makespan / self.bound


@dataclass(frozen=True)
class OtherTimes(Costs):
    """Costs in which the time of each case differs from its estimate by a random factor."""

    seed: int = 0

    def case_seconds(self, case: Case) -> float:
        """Return the seconds of a case."""
        return super().case_seconds(case) * random.Random(f"{self.seed} {case.id}").lognormvariate(0.0, SPREAD)


def full_cases() -> list[Case]:
    cases = plan_cases(read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json"))
    return [case for case in cases if "full" in case.suites and case.scenario.category != "deployable"]


class SimulatedCluster:
    """A simulated cluster with only the methods that `Placing` calls."""

    def __init__(self, nodes: Nodes, *, queue: bool) -> None:
        self._nodes, self._queue = nodes, queue
        self._free = [count for count, _ in nodes]
        self._waiting: list[tuple[Piece, Need, float]] = []
        self._ends: list[tuple[float, int, int, Need, Piece, float]] = []
        self._order = itertools.count()
        self.now = 0.0
        self.placed: list[tuple[Piece, int]] = []

    def slots(self, need: Need) -> int | None:
        if self._queue:
            return None
        return sum(count // need.gpus for node, (count, _) in enumerate(self._nodes) if self._may(need, node))

    def submit(self, piece: Piece, need: Need, seconds: float) -> None:
        self._waiting.append((piece, need, seconds))

    def flush(self) -> None:
        for one in list(self._waiting):
            piece, need, seconds = one
            fitting = [node for node, free in enumerate(self._free) if free >= need.gpus and self._may(need, node)]
            if fitting:
                node = min(fitting, key=self._free.__getitem__)
                self._waiting.remove(one)
                self._free[node] -= need.gpus
                self.placed.append((piece, self._nodes[node][1]))
                heapq.heappush(self._ends, (self.now + seconds, next(self._order), node, need, piece, seconds))

    @property
    def running(self) -> int:
        return len(self._waiting) + len(self._ends)

    def wait(self, *, block: bool) -> tuple[Piece, float] | None:
        if not block and self._ends[0][0] > self.now:
            return None
        ended, _, node, need, piece, seconds = heapq.heappop(self._ends)
        self._free[node] += need.gpus
        self.now = max(self.now, ended)
        self.flush()
        return piece, seconds

    @staticmethod
    def _may(need: Need, node: int) -> bool:
        return not need.nodes or str(node) in need.nodes


def simulate_fleet(
    nodes: Nodes,
    *,
    cases: Sequence[Case] | None = None,
    costs: Costs | None = None,
    piece_seconds: float = PIECE_SECONDS,
    queue: bool = False,
) -> Found:
    """Simulate the cases on the nodes of a cluster and return the result.

    Args:
        nodes: the nodes of the cluster.
        cases: the cases to run, by default those of the suite ``full``.
        costs: the cost model of the simulated durations; the product estimates with the default one.
        piece_seconds: the value of ``--piece-seconds``.
        queue: whether the cluster accepts all pieces at once.
    """
    cases, costs = cases or full_cases(), costs or Costs()
    widths = gpus_by_kind(nodes, cases)
    kinds = [
        {
            model: Need(count, count, 0, frozenset(str(node) for node, one in enumerate(nodes) if one == kind))
            for model, count in own.items()
        }
        for kind, own in widths.items()
    ]
    pieces, cluster = PieceQueue(cases, Costs()), SimulatedCluster(nodes, queue=queue)
    adapter: Any = cluster
    placing = Placing(pieces, adapter, make_lots(kinds), piece_seconds, lambda: cluster.now)
    measured: set[str] = set()

    def submit(piece: Piece, need: Need) -> None:
        model = piece.model
        begin = model.weight_bytes / costs.disk if model.id in measured else baseline_seconds(model, cases, costs)
        cluster.submit(piece, need, START_SECONDS + begin + sum(map(costs.case_seconds, piece.cases)))

    done: list[Case] = []
    ended: list[tuple[Piece, float]] = []
    # the same steps as the controller's loop
    while True:
        placing.fill(submit)
        if not cluster.running and not ended:
            break
        one = cluster.wait(block=not ended) if cluster.running else None
        if one is not None:
            ended.append(one)
            placing.ended(one[0].number)
            continue
        ended.sort(key=lambda done: bool(done[0].cases))
        piece, seconds = ended.pop(0)
        cluster.now += JOIN_SECONDS
        measured.add(piece.model.id)
        done += piece.cases
        pieces.finished(piece, seconds, baseline=True)
    assert sorted(case.id for case in done) == sorted(case.id for case in cases)
    return Found(cluster.now, lower_bound(nodes, cases, costs), cluster.placed)


def static_makespan(nodes: Nodes, costs: Costs | None = None) -> float:
    """Return the seconds of static shards, one for each node. Each shard measures the baselines of its models."""
    cases = full_cases()
    shards = divide_cases(cases, len(nodes))
    longest = 0.0
    for shard, node in enumerate(nodes, start=1):
        own = [case for case in cases if shards[case.model.id, case.scenario.id] == shard]
        longest = max(longest, simulate_fleet([node], cases=own, costs=costs).makespan)
    return longest


def gpus_by_kind(nodes: Nodes, cases: Sequence[Case]) -> dict[tuple[int, int], dict[str, int]]:
    """Return the number of GPUs that each model needs on each kind of node, without models that do not fit."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for count, gigabytes in nodes:
        room = int(gigabytes * GB)
        pool = Pool("gpu", tuple(Device(str(index), index, room, room) for index in range(count)), 1)
        own = {model.id: devices_needed(needed_bytes(model, "gpu"), pool) for model in {case.model for case in cases}}
        found[count, gigabytes] = {model: needed for model, needed in own.items() if needed is not None}
    return found


def baseline_seconds(model: Model, cases: Sequence[Case], costs: Costs) -> float:
    runs = max(case.run for case in cases if case.model == model)
    return costs.baseline_seconds(ModelSize.of(model), runs + CALIBRATION_RUNS)


def lower_bound(nodes: Nodes, cases: Sequence[Case], costs: Costs) -> float:
    """Return a lower bound of the seconds that any schedule takes.

    It has the start of one session and the join of one part, which no schedule can avoid, and in between the larger of
    two times, for which each model needs as few GPUs as on the kind of node where it needs the fewest. One is the
    longest case after its baseline. The other is computed at each moment at which a baseline can be finished: that
    moment plus the remaining work divided among all GPUs, if all work has been done by then that did not depend on a
    longer baseline.
    """
    models = list({case.model for case in cases})
    own = gpus_by_kind(nodes, cases).values()
    widths = [min(kind[model.id] for kind in own if model.id in kind) for model in models]
    baselines = [baseline_seconds(model, cases, costs) for model in models]
    each = [[costs.case_seconds(case) for case in cases if case.model == model] for model in models]
    work = [width * (first + sum(some)) for width, first, some in zip(widths, baselines, each, strict=True)]
    gpus, bound = sum(count for count, _ in nodes), max(map(sum, zip(baselines, map(max, each), strict=True)))
    for time in (0.0, *baselines):
        possible = sum(
            width * time if first >= time else whole
            for width, first, whole in zip(widths, baselines, work, strict=True)
        )
        bound = max(bound, time + (sum(work) - min(gpus * time, possible)) / gpus)
    return START_SECONDS + bound + JOIN_SECONDS
