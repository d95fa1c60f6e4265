"""Removing what killed processes leave in a run directory, in the same session or the next one.

The processes must end first: the workers of a session die with it, and each has a lock for as long as it runs. When all
have ended, the rest has no owner and is removed: subjects, staging folders, partially written files, locks and queues.
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
# The kernel kills workers with their controller, but a worker that is writing to a slow disk ends only after the write.
WORKERS_GONE_SECONDS = 60.0
POLL_SECONDS = 0.1
# the temporary files of the atomic writer, which it renames at the end
_WRITTEN = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
# subjects that no run keeps: those of null runs and of further runs of a scenario, weights of packed subjects, and
# prepared edits
_NEVER_KEPT = re.compile(r"null_run_[0-9]+|.+__run_[0-9]+|.+__weights|.+__prepared")


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends, whatever either is doing."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # the parent had already ended when this process registered with the kernel
        os.kill(os.getpid(), signal.SIGKILL)


def worker_lock(directory: RunDirectory, worker: int) -> filelock.FileLock:
    """Take the lock that a worker keeps for as long as it runs, and return it."""
    path = directory.worker_lock(worker)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    lock.acquire(blocking=False)
    return lock


def remove_leftovers(run: Run) -> None:
    """Remove what earlier sessions of a run left; the caller has the run directory's lock.

    Raises:
        UsageError: when a worker of an earlier session does not end.
    """
    _wait_for_workers(run.directory)
    shutil.rmtree(run.directory.locks, ignore_errors=True)
    remove_unfinished(run)


def remove_unfinished(run: Run) -> None:
    """Remove unfinished work when no worker runs: subjects, staging folders and partially written files."""
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
    """Return the subject folders of finished cases; they exist only if a session kept them."""
    directory = run.directory
    return {
        directory.subject(case)
        for case in run.catalog.cases
        if directory.report(case).with_name("runtime.manifest.json").is_file()
    }
