"""Locks for results that one worker makes and all workers share: one lock for each result.

Example, with ``folder`` as the run directory:

>>> locks = Locks(RunDirectory(folder), case_timeout_seconds=600)
>>> with locks.acquire("baseline_my-model"):              # waits until no other worker has the lock
...     print("measuring the baseline")
measuring the baseline
>>> with locks.try_acquire("null_run_my-model_1") as ours:
...     print("measuring" if ours else "another worker is measuring it")
measuring
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import filelock

from invarlock.errors import EvaluationError
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.problems import Code

Waiting = Callable[[], AbstractContextManager[object]]
# A hanging worker is ended at its time limit; if the lock is still taken after a longer wait, ending it has failed.
TIMES_CASE_TIMEOUT = 2


class Locks:
    """A worker's access to the locks of its run; it enters the context ``waiting`` while it waits."""

    def __init__(self, directory: RunDirectory, case_timeout_seconds: float, waiting: Waiting = nullcontext) -> None:
        self._directory = directory
        self._timeout_seconds = TIMES_CASE_TIMEOUT * case_timeout_seconds
        self._waiting = waiting

    @contextmanager
    def acquire(self, name: str) -> Iterator[None]:
        """Wait for a lock and keep it during the context.

        Raises:
            EvaluationError: if another worker does not release it in time.
        """
        lock = self._lock(name)
        try:
            with self._waiting():
                lock.acquire(timeout=self._timeout_seconds)
        except filelock.Timeout:
            raise EvaluationError(
                f"{lock.lock_file}: locked by another worker for {self._timeout_seconds:.0f} s; end its process",
                code=Code.RUN_IN_USE,
            ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def try_acquire(self, name: str) -> Iterator[bool]:
        """Take a lock if it is free, and yield whether it was taken."""
        lock = self._lock(name)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _lock(self, name: str) -> filelock.FileLock:
        path = self._directory.lock(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path)
