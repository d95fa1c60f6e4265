"""Simulates how long a suite takes on some GPUs: real cases, leases and work stealing, on a simulated clock.

The cases are those of ``suites/``, in the plan's order. pytest-xdist's own scheduler distributes them, and they lease
GPUs through the product's own lease files. Only the computation is left out: a cost model gives each case's duration.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from xdist.scheduler import WorkStealingScheduling

from invarlock.catalog.cases import Case, plan_cases
from invarlock.catalog.costs import Costs, ModelSize
from invarlock.catalog.models import Model, read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.harness.devices import leases as leases_module
from invarlock.harness.devices.inventory import GB, Device, Pool
from invarlock.harness.devices.leases import TURN_SECONDS, Leases
from invarlock.harness.devices.memory_plan import devices_needed, needed_bytes

SUITES = Path(__file__).parents[2] / "suites"
SHUTDOWN = -1


@dataclass(frozen=True)
class Simulated:
    """The simulation's result, in seconds; ``bound`` is the larger of the longest case and the total work / GPUs."""

    makespan: float
    bound: float
    longest: float
    busy_share: float
    steals: int

    @property
    def ratio(self) -> float:
        return self.makespan / self.bound


class Clock:
    """Replaces ``time`` in the leases; only the simulation advances it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ties = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        # no two tickets may have the same number
        return int(self.now * 1e9) + next(self._ties)


class Simulation:
    """A run of some cases on a pool, worker by worker."""

    def __init__(self, folder: Path, cases: Sequence[Case], pool: Pool, workers: int, costs: Costs) -> None:
        self.cases, self.pool, self.costs = cases, pool, costs
        self.clock = Clock()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.baselines: dict[str, float] = {}
        self.busy = 0.0
        self.steals = 0
        config: Any = SimpleNamespace(getvalue=lambda name: ["popen"] * workers)
        self.scheduler = WorkStealingScheduling(config)
        self.nodes = [Node(self, number, Leases(folder, pool, number)) for number in range(workers)]

    def run(self) -> float:
        ids = [case.id for case in self.cases]
        for node in self.nodes:
            self.scheduler.add_node(node)  # a Node has only the members that the scheduler uses
        for node in self.nodes:
            self.scheduler.add_node_collection(node, ids)
        self.scheduler.schedule()
        self._settle()
        while self._events:
            self.clock.now, _, happens = heapq.heappop(self._events)
            happens()
            self._settle()
        assert all(node.ended for node in self.nodes), "somebody waits for ever"
        return self.clock.now

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock.now + seconds, next(self._order), happens))

    def _settle(self) -> None:
        """Let every worker take steps until all of them wait for time to pass."""
        while any(node.go_on() for node in self.nodes):
            pass


class Node:
    """A simulated worker, which implements xdist's node protocol and runs cases with a lease."""

    def __init__(self, simulation: Simulation, number: int, leases: Leases) -> None:
        self.simulation, self.leases = simulation, leases
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.shutting_down = False
        self.ended = False
        self._queue: deque[int] = deque()
        self._next: int | None = None
        self._index: int | None = None
        self._model: Model | None = None
        self._ticket: tuple[Any, Path] | None = None
        self._state = "idle"

    # the methods that xdist's scheduler calls

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        self._queue.extend(indices)

    def send_steal(self, indices: Sequence[int]) -> None:
        here = [index for index in self._queue if index in set(indices)]
        stolen = here if len(here) == len(indices) else []
        self._queue = deque(index for index in self._queue if index not in stolen)
        self.simulation.steals += bool(stolen)
        answer = self.simulation.scheduler.remove_pending_tests_from_node
        self.simulation.after(0.0, lambda: answer(self, stolen))

    def shutdown(self) -> None:
        if not self.shutting_down:
            self.shutting_down = True
            self._queue.append(SHUTDOWN)

    def go_on(self) -> bool:
        """Take one step if the worker need not wait; return whether it took one."""
        if self.ended:
            return False
        if self._state == "idle":
            return self._take_case()
        if self._state == "queueing":
            return self._take_lease()
        if self._state == "baseline":
            return self._take_baseline()
        return False

    def _take_case(self) -> bool:
        if self._next is None and self._queue:
            self._next = self._queue.popleft()
        if self._next == SHUTDOWN:
            # the process ends and releases its locks
            self.leases.give_back()
            self.ended = True
            return True
        # xdist's worker starts a case only once it knows the next one
        if self._next is None or not self._queue:
            return False
        self._index, self._next = self._next, self._queue.popleft()
        model = self._case.model
        if self._model != model:
            self.leases.give_back()
        self._model = model
        if self.leases.lease is None:
            self._ticket = self.leases.queue_up()
            self._state = "queueing"
        else:
            self._state = "baseline"
        return True

    @property
    def _case(self) -> Case:
        assert self._index is not None
        return self.simulation.cases[self._index]

    def _take_lease(self) -> bool:
        assert self._ticket is not None
        ticket, own = self._ticket
        if not self.leases._try(own, needed_bytes(self._case.model, "gpu")):
            return False
        own.unlink()
        ticket.release()
        self._state = "baseline"
        return True

    def _take_baseline(self) -> bool:
        """Make the model's baseline, wait for the worker that makes it, or start the case."""
        simulation, model = self.simulation, self._case.model
        done = simulation.baselines.get(model.id)
        if done is None:
            runs = {case.run for case in simulation.cases if case.model == model}
            seconds = simulation.costs.baseline_seconds(ModelSize.of(model), len(runs))
            simulation.baselines[model.id] = simulation.clock.now + seconds
            self._count(seconds)
            simulation.after(seconds, lambda: None)
            return True
        if simulation.clock.now < done:
            return False
        seconds = simulation.costs.case_seconds(self._case)
        self._count(seconds)
        self._state = "running"
        simulation.after(seconds, lambda: self._finish(seconds))
        return True

    def _count(self, seconds: float) -> None:
        assert self.leases.lease is not None
        self.simulation.busy += seconds * len(self.leases.lease.devices)

    def _finish(self, seconds: float) -> None:
        waiting = self.leases.longest_wait_seconds()
        if waiting is not None and waiting > TURN_SECONDS:
            self.leases.give_back()
        self._state = "idle"
        index, self._index = self._index, None
        assert index is not None
        self.simulation.scheduler.mark_test_complete(self, index, seconds)


def simulate(
    folder: Path,
    gpus: int,
    *,
    suite: str = "full",
    gpu_gb: float = 80.0,
    costs: Costs | None = None,
    large_first: bool = False,
) -> Simulated:
    """Simulate a suite on some GPUs, with one worker for each GPU, and return the result.

    Args:
        folder: the folder for the lease files.
        gpus: the number of GPUs.
        suite: the name of a suite in ``suites/``.
        gpu_gb: the memory of each GPU in GB.
        costs: the cost model.
        large_first: whether to run the largest model first instead of using the plan's order.
    """
    costs = costs or Costs()
    models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
    cases = [
        case
        for case in plan_cases(models, scenarios)
        if suite in case.suites and case.scenario.category != "deployable"
    ]
    if large_first:
        cases.sort(key=lambda case: -case.model.weight_bytes)
    room = int(gpu_gb * GB)
    pool = Pool("cpu", tuple(Device(f"gpu{number}", number, room, room) for number in range(gpus)), 1)
    with mock.patch.object(leases_module, "time", Clock()) as clock:
        simulation = Simulation(folder, cases, pool, gpus, costs)
        simulation.clock = clock
        makespan = simulation.run()
    counts = {model.id: devices_needed(needed_bytes(model, "gpu"), pool) or gpus for model in models.models.values()}
    runs = {model: len({case.run for case in cases if case.model == model}) for model in {c.model for c in cases}}
    work = sum(costs.case_seconds(case) * counts[case.model.id] for case in cases)
    work += sum(costs.baseline_seconds(ModelSize.of(model), count) * counts[model.id] for model, count in runs.items())
    longest = max(costs.case_seconds(case) for case in cases)
    bound = max(longest, work / gpus)
    return Simulated(makespan, bound, longest, simulation.busy / (gpus * makespan), simulation.steals)
