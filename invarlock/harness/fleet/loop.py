"""The controller of a fleet: it submits pieces instead of running cases, and replays pytest's reports from the nodes.

Other plugins get the same reports of the same tests as if this process had run them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from invarlock.catalog.cases import Case
from invarlock.catalog.costs import Costs
from invarlock.errors import InvarLockError, UsageError, printable, printable_lines
from invarlock.harness.devices.inventory import Device, Pool
from invarlock.harness.devices.memory_plan import devices_needed
from invarlock.harness.fleet.agreement import NodeFacts, disagreement, node_facts
from invarlock.harness.fleet.cluster import Cluster, Need
from invarlock.harness.fleet.command_line import node_arguments, node_variables
from invarlock.harness.fleet.joining import (
    Outcomes,
    baseline_archive,
    finished_outcomes,
    has_baseline,
    join_part,
    state_archive,
)
from invarlock.harness.fleet.node import Part, WorkOrder
from invarlock.harness.fleet.pieces import Piece, PieceQueue
from invarlock.harness.fleet.placing import Lot, Placing, make_lots
from invarlock.harness.fleet.ray_cluster import RayCluster
from invarlock.harness.fleet.slurm_cluster import SlurmCluster, check_options
from invarlock.harness.planning.piece_file import PieceFile
from invarlock.harness.planning.sizing import model_needs
from invarlock.harness.session import Controller, case_of
from invarlock.harness.state.nodes import FleetState
from invarlock.jsonio import read_json, write_bytes
from invarlock.packer.runs.shards import binding_settings
from invarlock.problems import Code

# The number of GPUs assumed for a node if only the memory of a GPU is known; a model that needs more GPUs is refused.
GPUS_OF_A_NODE = 8


class FleetLoop:
    """Runs the cases of a session on the nodes of a cluster."""

    def __init__(self, controller: Controller) -> None:
        self.controller, self.config = controller, controller.config
        self.directory = controller.run.directory
        self._cluster: Cluster | None = None
        self._agreed: Mapping[str, Any] = {}
        self._facts: dict[str, NodeFacts] = {}
        self._state = FleetState({})
        self._pieces: dict[int, Piece] = {}
        self._lost: set[str] = set()
        self._files: dict[str, Any] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Connect to the cluster and compare its nodes, before anything is written to the run directory."""
        if not session.items:
            return
        try:
            self._connect()
        except InvarLockError as error:
            raise pytest.UsageError(printable_lines(error.coded_text)) from None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run the session's tests and return True; tests that run no case are run in this process."""
        if session.testsfailed and not self.config.option.continue_on_collection_errors:
            # pytest reports the errors of its collection
            return None
        tests: dict[str, list[pytest.Item]] = {}
        others = []
        for item in session.items:
            case = case_of(item)
            if case is None:
                others.append(item)
            else:
                tests.setdefault(case.id, []).append(item)
        for item in others:
            self.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        try:
            self._run(session, tests)
        except InvarLockError as error:
            raise session.Interrupted(printable(error.coded_text)) from None
        return True

    def pytest_unconfigure(self) -> None:
        """Cancel pieces that still run on the cluster."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _connect(self) -> None:
        suite, settings = self.controller.suite, self.controller.settings
        self._agreed = node_facts(suite.folder, settings.determinism, gpus=False).agreed()
        if settings.fleet == "slurm":
            check_options(dict(settings.slurm))
        else:
            self._cluster = RayCluster(settings.fleet or "")
        if self._cluster is None:
            return
        self._compare_nodes()

    def _compare_nodes(self) -> None:
        """Read the facts of all nodes, and check that they agree.

        Raises:
            UsageError: when a node differs; the message names it.
        """
        assert self._cluster is not None
        suite, settings = self.controller.suite, self.controller.settings
        names = self._cluster.names()
        self._facts = self._cluster.facts(suite.folder, settings.determinism, gpus=self._on_gpus)
        for node, facts in self._facts.items():
            wrong = disagreement(self._agreed, facts.agreed())
            if wrong is not None:
                message = f"node {names[node]}: {wrong}; install the same on all nodes"
                raise UsageError(message, code=Code.NODE_DIFFERS)

    def _run(self, session: pytest.Session, tests: Mapping[str, list[pytest.Item]]) -> None:
        if self._cluster is None:
            # the run directory exists only now; its logs may contain links, which submitit makes
            self._cluster = SlurmCluster(self.directory.logs / "slurm", dict(self.controller.settings.slurm))
        planned = self.controller.planned
        self._begin_state()
        lots = self._lots(planned)
        left = []
        for case in planned:
            known = finished_outcomes(self.directory, case) if self.controller.settings.resume else None
            if known is None:
                left.append(case)
            else:
                self._replay(session, tests, known)
        if not left:
            return
        measured = {case.model.id for case in left if has_baseline(self.directory, case.model)}
        queue = PieceQueue(left, Costs(), measured)
        placing = Placing(queue, self._cluster, lots, self.controller.settings.piece_seconds)
        state = self._cluster.share(state_archive(self.directory))
        shown = False
        ended: list[tuple[int, str, Part]] = []
        while True:
            if len(lots) > 1 and not self._cluster.names().keys() <= self._facts.keys():
                # new nodes joined the cluster, and it is not known what fits on them
                self._compare_nodes()
                lots = self._lots(planned)
                placing.replace_lots(lots)
            placing.fill(lambda piece, need: self._submit(piece, state, need, planned))
            if not shown and placing.is_without_room():
                shown = True
                self._show("no node of the cluster has room for a case now; waiting for one that has")
            if not self._cluster.running and not ended:
                return
            one = self._cluster.wait(block=not ended) if self._cluster.running else None
            if one is not None:
                # submit the nodes' next pieces first, since joining parts takes time
                ended.append(one)
                placing.ended(one[0])
                continue
            # parts with baselines are joined first, since cases wait for them
            ended.sort(key=lambda done: bool(self._pieces[done[0]].cases))
            number, node, part = ended.pop(0)
            self._end(session, tests, queue, self._pieces.pop(number), node, part)

    def _begin_state(self) -> None:
        agreed = {**self._agreed, "settings": binding_settings(read_json(self.directory.state / "settings.json"))}
        self._state = FleetState(agreed)
        if self.controller.settings.resume and self.directory.fleet.is_file():
            self._state = FleetState.read(self.directory)
            wrong = disagreement(self._state.agreed, agreed)
            if wrong is not None:
                raise UsageError(
                    f"--resume: {self.directory.path} was begun with other nodes: {wrong}; start a new run",
                    code=Code.RUN_DIFFERS,
                )
        self._state.write(self.directory)

    def _lots(self, cases: Sequence[Case]) -> list[Lot]:
        """Group the nodes by what a piece of each model needs on them.

        Raises:
            UsageError: if a model does not fit on any node.
        """
        assert self._cluster is not None
        rows = model_needs(self.controller.run, cases)
        pools = {node: _pool(facts.gpu_bytes) for node, facts in self._facts.items() if facts.gpu_bytes}
        if not self._on_gpus:
            return make_lots([{row.model.id: Need(memory_bytes=row.memory_bytes) for row in rows}])
        found: dict[tuple[tuple[str, int], ...], set[str]] = {}
        for node, pool in pools.items() or {"": self._planned_pool()}.items():
            counts = {row.model.id: devices_needed(row.memory_bytes, pool) for row in rows}
            fitting = tuple((model, count) for model, count in counts.items() if count is not None)
            found.setdefault(fitting, set()).add(node)
        for row in rows:
            if all(row.model.id not in dict(kind) for kind in found):
                raise UsageError(
                    f"{row.model.id}: needs {row.memory_bytes / 1e9:.3g} GB, more than the GPUs of any node; add a "
                    "larger node, or deselect the model with -k",
                    code=Code.DEVICE_UNAVAILABLE,
                )
        cores, kinds = self._cluster.cores_per_gpu(), []
        for kind, nodes in found.items():
            # the cluster does not know the memory of GPUs, so each need lists its nodes if they differ
            own = frozenset(nodes) if len(found) > 1 else frozenset[str]()
            kinds.append({model: Need(count, count * cores, nodes=own) for model, count in kind})
        return make_lots([kind for kind in kinds if kind])

    @property
    def _on_gpus(self) -> bool:
        catalog = self.controller.catalog
        return catalog.models.suites[catalog.suite].requires == "gpu"

    def _planned_pool(self) -> Pool:
        """Return the assumed GPUs of a node that cannot be queried before it runs a piece.

        Raises:
            UsageError: if the settings do not give the memory of a GPU.
        """
        gigabytes = self.controller.settings.gpu_memory_per_device
        if gigabytes is None:
            raise UsageError(
                "--fleet slurm: the memory of the nodes' GPUs is unknown; give the GB of one with "
                "GPU_MEMORY_PER_DEVICE",
                code=Code.DEVICE_UNAVAILABLE,
            )
        return _pool([int(gigabytes * 1e9)] * GPUS_OF_A_NODE)

    def _submit(self, piece: Piece, state: Any, need: Need, planned: Sequence[Case]) -> None:
        assert self._cluster is not None
        files = [state]
        if has_baseline(self.directory, piece.model):
            if piece.model.id not in self._files:
                self._files[piece.model.id] = self._cluster.share(baseline_archive(self.directory, piece.model))
            files.append(self._files[piece.model.id])
        order = WorkOrder(
            piece.number,
            node_arguments(self.config),
            str(self.config.invocation_params.dir),
            node_variables(os.environ),
            str(self.controller.suite.folder),
            self.controller.settings.determinism,
            PieceFile(
                tuple(case.id for case in piece.cases or (piece.opens,) if case is not None),
                tuple(case.id for case in planned),
                baseline_only=not piece.cases,
            ),
            dict(self._agreed),
        )
        self._pieces[piece.number] = piece
        self._cluster.submit(order, files, need)

    def _end(
        self,
        session: pytest.Session,
        tests: Mapping[str, list[pytest.Item]],
        queue: PieceQueue,
        piece: Piece,
        node: str,
        part: Part,
    ) -> None:
        """Join the part of a finished piece, replay its reports, and put each lost case back, but only once."""
        finished = self._join(piece, node, part)
        baseline = has_baseline(self.directory, piece.model)
        queue.finished(piece, part.seconds, baseline=baseline)
        if not piece.cases and not baseline:
            why = part.ended or f"logs/piece_{piece.number}.log"
            self._show(f"piece {piece.number}: no baseline of {piece.model.id}, to be measured with a case: {why}")
        for outcomes in finished.values():
            self._replay(session, tests, outcomes)
        lost = [case for case in piece.cases if case.id not in finished]
        why = part.ended or "its report is missing or does not verify"
        for case in lost:
            if case.id in self._lost:
                for item in tests[case.id]:
                    self._fail(session, item, f"lost twice on the fleet: {why}; logs/piece_{piece.number}.log")
        again = [case for case in lost if case.id not in self._lost]
        if again:
            self._lost.update(case.id for case in again)
            queue.again(again)
            self._show(f"piece {piece.number}: {_count(again)} lost, to be run once more: {why}")

    def _join(self, piece: Piece, node: str, part: Part) -> dict[str, Outcomes]:
        assert self._cluster is not None
        name = self._cluster.names().get(node, node[:8])
        if part.output:
            write_bytes(self.directory.logs / f"piece_{piece.number}.log", part.output.encode("utf-8"))
        if part.refusal is not None:
            raise UsageError(f"node {name}: {part.refusal}; then continue with --resume", code=part.code)
        if part.archive is None:
            return {}
        try:
            finished, environment = join_part(self.directory, part.archive, piece.model, piece.cases)
        except UsageError as error:
            raise UsageError(f"node {name}: {error}; then continue with --resume", code=Code.NODE_DIFFERS) from None
        if environment is not None:
            self._state = self._state.with_part(node, environment, list(finished))
            self._state.write(self.directory)
            number = self._state.number(node)
            what = _count(finished) if piece.cases else "baseline"
            self._show(f"node {number}: {what} of {piece.model.id} in {part.seconds:.0f} s")
        return finished

    def _replay(self, session: pytest.Session, tests: Mapping[str, list[pytest.Item]], outcomes: Outcomes) -> None:
        """Pass pytest's reports from a node on to the plugins of this session."""
        hook = self.config.hook
        reports = [hook.pytest_report_from_serializable(config=self.config, data=document) for document in outcomes]
        items = {item.nodeid: item for item in tests[_case_of(reports, tests)]}
        for nodeid, item in items.items():
            hook.pytest_runtest_logstart(nodeid=nodeid, location=item.location)
            for report in reports:
                if report.nodeid == nodeid:
                    hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=item.location)
        self._stop_early(session)

    def _fail(self, session: pytest.Session, item: pytest.Item, why: str) -> None:
        hook = self.config.hook
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", printable(why), "???")  # type: ignore[arg-type]  # as xdist's
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._stop_early(session)

    def _stop_early(self, session: pytest.Session) -> None:
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)

    def _show(self, line: str) -> None:
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if terminal is not None and self.config.get_verbosity() >= 0:
            terminal.write_line(printable(f"invarlock: {line}"), flush=True)


def _pool(gpu_bytes: Sequence[int]) -> Pool:
    return Pool("gpu", tuple(Device(str(index), index, room, room) for index, room in enumerate(gpu_bytes)), 1)


def _case_of(reports: Sequence[pytest.TestReport], tests: Mapping[str, Sequence[pytest.Item]]) -> str:
    nodes = {report.nodeid for report in reports}
    return next(case for case, items in tests.items() if any(item.nodeid in nodes for item in items))


def _count(cases: Collection[object]) -> str:
    return "1 case" if len(cases) == 1 else f"{len(cases)} cases"
