"""Removes what killed processes leave in a run directory, in the same session or the next one.

Processes come first: the workers of a session die with it, and each has a lock for as long as it runs. When all are
gone, the rest has no owner and is removed: subjects, staging folders, files that were being written, locks and queues.
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
from invarlock.harness.devices.leases import is_locked
from invarlock.harness.state.run import Run
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.problems import Code
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
    """Make the kernel kill this process when its parent ends, whatever both are doing."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # the parent was gone before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def worker_lock(directory: RunDirectory, worker: int) -> filelock.FileLock:
    """Take and return the lock that a worker keeps for as long as it runs."""
    path = directory.worker_lock(worker)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    lock.acquire(blocking=False)
    return lock


def remove_leftovers(run: Run) -> None:
    """Remove what is left of earlier sessions of a run; the caller has the run directory's lock.

    Raises:
        UsageError: when a worker of an earlier session does not end.
    """
    _wait_for_workers(run.directory)
    shutil.rmtree(run.directory.locks, ignore_errors=True)
    remove_unfinished(run)


def remove_unfinished(run: Run) -> None:
    """Remove unfinished work when no worker runs: subjects, staging folders, files that were being written."""
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
    while alive := [path.stem for path in directory.locks.glob("worker_*.lock") if is_locked(path)]:
        if time.monotonic() > deadline:
            raise UsageError(
                f"{directory.path}: {', '.join(alive)} of an earlier session does not end; kill its process first",
                code=Code.RUN_IN_USE,
            )
        time.sleep(POLL_SECONDS)


def _finished_subjects(run: Run) -> set[Path]:
    """Return the folders of finished cases' subjects, which exist only if a session kept them."""
    directory = run.directory
    return {
        directory.subject(case)
        for case in run.catalog.cases
        if directory.report(case).with_name("runtime.manifest.json").is_file()
    }
