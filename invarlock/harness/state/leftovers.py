"""What processes that were killed leave in a run directory: the session itself removes it, or the next one.

Processes first: the workers of a session die with it, and each holds a lock for as long as it lives. When all are gone,
nobody owns what is removed then: subjects, staging folders, files that were being written, locks and queues.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import time
from pathlib import Path

import filelock

from invarlock.errors import UsageError
from invarlock.harness.devices.leases import is_held
from invarlock.harness.state.run import Run
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.staging import remove_abandoned

# linux/prctl.h
PR_SET_PDEATHSIG = 1
# The kernel kills workers with their controller; one that is writing to a slow disk is gone when the disk is done.
WORKERS_GONE_SECONDS = 60.0
POLL_SECONDS = 0.1
# what the one atomic writer writes before it renames
_WRITTEN = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
# subjects that no run keeps: of null runs, of further runs of a scenario, weights of packed ones, and prepared edits
_NEVER_KEPT = re.compile(r"null_run_[0-9]+|.+__run_[0-9]+|.+__weights|.+__prepared")


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it is gone, whatever either is doing then."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # it was gone before the kernel had been told
        os.kill(os.getpid(), signal.SIGKILL)


def worker_lock(directory: RunDirectory, worker: int) -> filelock.FileLock:
    """Return the lock that a worker holds for as long as it lives, taken."""
    path = directory.worker_lock(worker)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    lock.acquire(blocking=False)
    return lock


def remove_leftovers(run: Run) -> None:
    """Remove what is left of earlier sessions of a run; the caller holds the run directory's lock.

    Raises:
        UsageError: when a worker of an earlier session does not end.
    """
    _wait_for_workers(run.directory)
    shutil.rmtree(run.directory.locks, ignore_errors=True)
    remove_unfinished(run)


def remove_unfinished(run: Run) -> None:
    """Remove what nobody will finish: subjects, staging folders, files that were being written. No worker lives."""
    directory = run.directory
    kept = _finished_subjects(run)
    for subject in directory.path.glob("*/models/*"):
        keeps = run.settings.keep_models or subject in kept
        if not keeps or _NEVER_KEPT.fullmatch(subject.name):
            shutil.rmtree(subject, ignore_errors=True)
    for folder, _, names in os.walk(directory.path):
        remove_abandoned(Path(folder))
        for name in names:
            if _WRITTEN.fullmatch(name):
                (Path(folder) / name).unlink(missing_ok=True)


def _wait_for_workers(directory: RunDirectory) -> None:
    deadline = time.monotonic() + WORKERS_GONE_SECONDS
    while alive := [path.stem for path in directory.locks.glob("worker_*.lock") if is_held(path)]:
        if time.monotonic() > deadline:
            raise UsageError(
                f"{directory.path}: {', '.join(alive)} of an earlier session does not end; kill its process first"
            )
        time.sleep(POLL_SECONDS)


def _finished_subjects(run: Run) -> set[Path]:
    """Return where the subjects of cases that are done stand; they are there only when a session was to keep them."""
    directory = run.directory
    return {
        directory.subject(case)
        for case in run.catalog.cases
        if directory.report(case).with_name("runtime.manifest.json").is_file()
    }
