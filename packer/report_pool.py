"""Examining the reports of a large pack in several processes.

Each is a fresh interpreter that inherits the descriptor of the pack's folder and one end of a socket, and nothing else:
no state of a fork, no second run of the caller's ``__main__``. It ends when the other end is closed, however that
comes about, so none outlives the process that started it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import cast

from invarlock.packer import layout
from invarlock.packer.claims import Examine, one_by_one
from invarlock.packer.contents import SealedFiles
from invarlock.packer.layout import beside
from invarlock.packer.limits import MAX_POOLED_BYTES, MAX_REPORT_PROCESSES, POOL_FROM_BYTES, REPORTS_A_BATCH
from invarlock.packer.pack_folder import Listing, PackFolder
from invarlock.packer.report_claims import Baseline, Examined, Plan
from invarlock.packer.report_worker import Answer, Batch, Setting

from invarlock.errors import ReportError

# The paths of the caller, as its own imports found them; -P keeps the current folder out until then.
_START = (
    "import sys; sys.path[:] = sys.argv[3:]; from invarlock.packer.report_worker import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)


@dataclass
class ReportPool:
    """Running workers, by the connection to each."""

    folder: PackFolder
    files: SealedFiles
    plan: Plan
    workers: dict[Connection, subprocess.Popen[bytes]]

    def examine(self, paths: Sequence[str], baseline: Baseline | None) -> list[Examined]:
        """Return what the reports of one model hold, in the order of their paths.

        Raises:
            ReportError: when a worker is gone before it has answered.
        """
        setting = pickle.dumps(Setting(self.plan.scenarios, self.plan.tuned, baseline))
        left = iter(_batches(paths))
        waiting: dict[Connection, Sequence[str]] = {}
        examined: dict[str, Examined] = {}
        for connection in self.workers:
            self._ask(connection, next(left, ()), waiting, setting)
        while waiting:
            for ready in wait(list(waiting)):
                connection = cast("Connection", ready)
                asked = waiting.pop(connection)
                answer = self._answer(connection)
                examined.update(zip(asked, answer.examined, strict=True))
                self.folder.read_states.update(answer.read)
                self.files.read_elsewhere(answer.read, answer.problems)
                self._ask(connection, next(left, ()), waiting)
        return [examined[path] for path in paths]

    def _ask(
        self,
        connection: Connection,
        paths: Sequence[str],
        waiting: dict[Connection, Sequence[str]],
        setting: bytes | None = None,
    ) -> None:
        if not paths:
            return
        digests, cases = self.files.digests, self.plan.cases
        inputs = [place for path in paths for name in layout.READ_OF_REPORT if (place := beside(path, name)) in digests]
        batch = Batch(
            tuple(paths),
            {path: cases[path] for path in paths if path in cases},
            {path: digests[path] for path in inputs},
        )
        try:
            if setting is not None:
                connection.send_bytes(setting)
            connection.send(batch)
        except OSError:
            raise self._gone(connection) from None
        waiting[connection] = paths

    def _answer(self, connection: Connection) -> Answer:
        try:
            answer: Answer | Exception = connection.recv()
        except (EOFError, OSError):
            raise self._gone(connection) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _gone(self, connection: Connection) -> ReportError:
        code = self.workers[connection].wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return ReportError(
            f"a process that examines reports ended early ({how}); nothing is known of its reports, verify again"
        )

    def close(self) -> None:
        """End all workers and wait for them."""
        for connection, process in self.workers.items():
            connection.close()
            process.kill()
        for process in self.workers.values():
            process.wait()


@contextmanager
def report_pool(folder: PackFolder, listing: Listing, files: SealedFiles, plan: Plan) -> Iterator[Examine]:
    """Yield what examines the reports of a pack: several processes where that pays and memory allows, else this one."""
    count = worker_count(listing, plan)
    if count < 2 or not sys.executable:
        with one_by_one(files, plan) as examine:
            yield examine
        return
    pool = ReportPool(folder, files, plan, {})
    try:
        for _ in range(count):
            _start(pool)
        yield pool.examine
    finally:
        pool.close()


def worker_count(listing: Listing, plan: Plan) -> int:
    """Return how many processes are to examine the reports of a pack; one is this one.

    A worker holds what a report is derived from and what it is held against; the largest of these decides how many
    workers fit in memory.
    """
    by_report: defaultdict[str, int] = defaultdict(int)
    baselines: dict[str, int] = {}
    for path, state in listing.files.items():
        if layout.is_baseline(path):
            baselines[layout.model_folder(path)] = state[0]
        elif path.startswith("reports/") and path.endswith(layout.READ_OF_REPORT):
            by_report[path.rpartition("/")[0]] += state[0]
    if sum(by_report.values()) < POOL_FROM_BYTES:
        return 1
    against = max(baselines.values(), default=0) + len(pickle.dumps((plan.scenarios, plan.tuned)))
    largest = max(by_report.values()) + against
    return min(_cores(), MAX_REPORT_PROCESSES, MAX_POOLED_BYTES // max(largest, 1))


def _start(pool: ReportPool) -> None:
    ours, theirs = Pipe()
    with theirs:
        descriptors = (pool.folder.descriptor, theirs.fileno())
        flags = ["-I"] if sys.flags.isolated else ["-P"]
        command = [sys.executable, *flags, "-c", _START, *map(str, descriptors), *sys.path]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors)
        except BaseException:
            ours.close()
            raise
    pool.workers[ours] = process


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(paths), REPORTS_A_BATCH):
        yield paths[start : start + REPORTS_A_BATCH]
