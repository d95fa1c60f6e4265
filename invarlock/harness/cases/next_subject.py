"""Making the subject of a worker's next case in a second process, while the current case is measured.

Making a subject mainly needs CPU cores and the disk; measuring one mainly needs a GPU. A subject is made in advance if
it comes from an edit or a fault of the current case's baseline, and if cores, disk and memory allow it. This is a
process and not a thread because loading a model changes PyTorch's default dtype in all threads. It starts when it is
first needed. Orders and answers are pickles in pipes between the two.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model
from invarlock.catalog.scenarios import EditGeneration, FaultGeneration
from invarlock.edits import BY_NAME
from invarlock.errors import InvarLockError
from invarlock.evaluation.models import Placement
from invarlock.harness.cases.edit_batches import EditBatches
from invarlock.harness.cases.subjects import MadeSubject, make_subject
from invarlock.harness.devices.inventory import Pool
from invarlock.harness.state.leftovers import die_with_parent
from invarlock.harness.state.locks import Locks
from invarlock.harness.state.run import Run
from invarlock.machine_limits import available_memory_bytes, usable_cores
from invarlock.runtime.determinism import apply_determinism
from invarlock.stages import stage

# Below this size of a baseline, making a subject takes less time than the second process would save.
MIN_BASELINE_BYTES = 100_000_000
# The memory of the second process beyond the tensors that it edits: PyTorch and the interpreter.
PROCESS_BYTES = 1_000_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Setting:
    """What the second process needs to know: the run, its planned cases and disk space, and how to compute.

    ``worker_pid`` is the process that it works for.
    """

    run: Run
    case_ids: list[str]
    disk_bytes: int
    threads: int
    leaves_gpu_edits: bool
    worker_pid: int


class NextSubject:
    """Makes the subject of a worker's next case in advance.

    Args:
        run: the run.
        edits: the worker's own edits, which know how many subjects fit on the disk.
        locks: the locks of the run.
        pool: the devices of the run.
        threads: the threads with which this process computes on CPUs.
        plan: the run's plan.
    """

    def __init__(
        self, run: Run, edits: EditBatches, locks: Locks, pool: Pool, threads: int, plan: dict[str, Any]
    ) -> None:
        self._run = run
        self._locks = locks
        self._edits = edits
        self._threads = spare_threads(pool, threads, run.workers, usable_cores())
        self._setting = _Setting(
            run,
            plan["cases"],
            plan["disk_bytes"],
            self._threads,
            # the second process must not use the GPU, which is leased for the current case
            leaves_gpu_edits=torch.cuda.is_available(),
            worker_pid=os.getpid(),
        )
        self._bytes = {row["model"]: row["baseline_bytes"] for row in plan["models"]}
        # on CPUs, the current case is about to take the memory that it is planned with
        self._cases = {row["model"]: row["memory_bytes"] if pool.kind == "cpu" else 0 for row in plan["models"]}
        self._pending: Case | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, case: Case | None, present: Case, snapshot: Path) -> None:
        """Begin to make the subject of a case, the next one after ``present``, if resources allow it.

        Args:
            case: the next case, None after the last one.
            present: the case that is about to be measured.
            snapshot: the folder of its baseline.
        """
        if self._pending is not None:
            if case is not None and self._pending.id == case.id:
                return
            # its test was skipped, or failed before it asked for the subject
            self.stop()
        if case is None or not self.takes(case, present, snapshot):
            return
        try:
            if self._process is None:
                self._process = self._started()
            self._send((case, snapshot))
        except OSError as error:
            _log.warning("the next subject is not made in advance: %s", error)
            self.stop()
            return
        self._pending = case

    def take(self, case: Case) -> MadeSubject | None:
        """Wait for the subject of a case if it is being made, and return how it was made; otherwise return None.

        The caller must not hold the lock of the case, which the second process takes.
        """
        if self._process is None or self._pending is None or self._pending.id != case.id:
            return None
        assert self._process.stdout is not None
        started = time.perf_counter()
        try:
            with stage(f"making the subject of {case.scenario.id}"):
                # safe to unpickle: written by our own process
                made: MadeSubject | None = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            _log.warning("the process that makes subjects in advance has ended; this case makes its own subject")
            self.stop()
            return None
        except BaseException:  # including an interrupt and the time limit: a late answer must not be taken for the next
            self.stop()
            raise
        self._pending = None
        if made is not None:
            _log.info("subject made while another case was measured; waited %.2f s", time.perf_counter() - started)
        return made

    def stop(self) -> None:
        """End the second process, whatever it is doing, and remove the subject that no case has asked for."""
        process, pending, self._process, self._pending = self._process, self._pending, None, None
        if process is not None:
            process.kill()
            # reads what is left, closes the pipes and waits for the end
            process.communicate()
        if pending is None:
            return
        with self._locks.try_acquire(_lock(pending)) as ours:
            if ours and not self._run.directory.report(pending).is_file():
                shutil.rmtree(self._run.directory.subject(pending), ignore_errors=True)

    def takes(self, case: Case | None, present: Case, snapshot: Path) -> bool:
        """Return whether the subject of a case can be made while ``present`` is measured."""
        try:
            return case is not None and self._is_suitable(case, present) and self._fits(case.model, snapshot)
        except (InvarLockError, OSError):
            # the case itself reports what is wrong with it
            return False

    def _is_suitable(self, case: Case, present: Case) -> bool:
        generation = case.scenario.generation
        if self._threads < 1 or case.model != present.model or case.id == present.id:
            return False
        if not isinstance(generation, EditGeneration | FaultGeneration) or self._run.directory.report(case).is_file():
            return False
        edit = BY_NAME[self._edits.spec(case).edit] if isinstance(generation, EditGeneration) else None
        return edit is None or not edit.on_gpu or not self._setting.leaves_gpu_edits

    def _fits(self, model: Model, snapshot: Path) -> bool:
        # each of the workers may make a further subject at the same time
        size, workers = self._bytes[model.id], self._run.workers
        memory_bytes = workers * (size + PROCESS_BYTES + self._cases[model.id])
        if size < MIN_BASELINE_BYTES or available_memory_bytes() < memory_bytes:
            return False
        return self._edits.spare_subjects(snapshot) >= workers

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the second process, started.

        Raises:
            OSError: when it cannot be started.
        """
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = process
        self._send(self._setting)
        return process

    def _send(self, order: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        pickle.dump(order, self._process.stdin)
        self._process.stdin.flush()


def spare_threads(pool: Pool, threads: int, workers: int, cores: int) -> int:
    """Return how many threads a worker can use to make subjects in advance; 0 if all cores are in use.

    Args:
        pool: the devices of the run.
        threads: the threads with which a worker computes on CPUs.
        workers: the number of workers.
        cores: the number of cores of the machine.
    """
    if pool.kind == "gpu":
        # while a GPU computes, few of its worker's threads do
        return max(1, threads // 2)
    return max(0, cores // workers - threads)


def serve() -> None:
    """Make the subjects that are ordered on standard input, until it is closed or the worker ends."""
    die_with_parent()
    # an interrupt stops the worker, which then ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # answers get their own descriptor, so that a library's output is not mistaken for an answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with suppress(EOFError, OSError):
        setting: _Setting = pickle.load(sys.stdin.buffer)  # written by the process that started this one
        if os.getppid() == setting.worker_pid:
            maker = _Maker(setting)
            while True:
                pickle.dump(maker.make(*pickle.load(sys.stdin.buffer)), answers)
                answers.flush()


class _Maker:
    """The state that the second process keeps between subjects."""

    def __init__(self, setting: _Setting) -> None:
        # read when this process first looks for GPUs
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        run = self._run = setting.run
        apply_determinism(run.settings.determinism, setting.threads)
        self._locks, self._tuned = Locks(run.directory, run.settings.case_timeout), run.tuned_params()
        self._edits = EditBatches(
            run,
            self._tuned,
            self._locks,
            setting.case_ids,
            setting.disk_bytes,
            leaves_gpu_edits=setting.leaves_gpu_edits,
        )

    def make(self, case: Case, snapshot: Path) -> MadeSubject | None:
        """Make the subject of a case; None if that fails, or if another worker runs the case."""
        subject = self._run.directory.subject(case)
        # an error is raised by the case itself, which then makes its own subject
        with suppress(InvarLockError, OSError, RuntimeError), self._locks.try_acquire(_lock(case)) as ours:
            if ours and not subject.exists() and not self._run.directory.report(case).is_file():
                return make_subject(case, self._tuned, self._edits, snapshot, subject, Placement("cpu"))
        return None


def _lock(case: Case) -> str:
    """Return the name of the lock of the worker that runs a case."""
    return f"case_{case.id}"
