"""The lock on a run directory: one session at a time works in it.

Example::

    lock = RunLock(run.directory)
    lock.take()             # or a UsageError with the process and host of the session that has it
    …
    lock.give_back()

The kernel releases the lock when its process dies, so the folder of a killed session is free at once. The name of the
owner is in a separate file, since taking a lock empties the locked file.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.errors import UsageError, disk_refuses
from invarlock.moments import utc_now
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.problems import Code

if TYPE_CHECKING:
    import filelock


class RunLock:
    """A session's lock on its run directory, which it creates if it does not exist."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._lock: filelock.FileLock | None = None
        self._made: list[Path] = []

    def take(self) -> None:
        """Take the lock. If the path is not a folder, do nothing: the check of the run directory reports this.

        Raises:
            UsageError: when another session has the lock, or the folder cannot be made.
        """
        # imported here: collecting needs none of it
        import filelock

        path = self._directory.path
        if path.exists() and not path.is_dir():
            return
        try:
            self._make_folders()
            lock = filelock.FileLock(self._directory.session_lock)
            lock.acquire(blocking=False)
            since = utc_now()
            self._directory.session_holder.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {since}\n")
        except filelock.Timeout:
            # the folders now belong to the other session
            self._made = []
            raise UsageError(
                f"--output-dir: {path} is in use by {self._holder()}; wait for it, or stop it", code=Code.RUN_IN_USE
            ) from None
        except OSError as error:
            self.give_up()
            raise UsageError(
                f"--output-dir: {disk_refuses(error)}, or choose another folder", code=Code.OUTPUT_UNWRITABLE
            ) from None
        self._lock = lock

    def give_back(self) -> None:
        """Release the lock, if it was taken."""
        if self._lock is None:
            return
        self._directory.session_holder.unlink(missing_ok=True)
        self._lock.release()
        self._lock = None

    def give_up(self) -> None:
        """Release the lock of a refused run, and remove the folders that were made for it."""
        self.give_back()
        if self._directory.path in self._made:
            shutil.rmtree(self._directory.path, ignore_errors=True)
        elif self._directory.state in self._made:
            self._directory.session_lock.unlink(missing_ok=True)
        for folder in reversed(self._made):
            # another process may have put something into the folder in the meantime
            with suppress(OSError):
                folder.rmdir()
        self._made = []

    def _make_folders(self) -> None:
        state = self._directory.state
        for folder in (*reversed(state.parents), state):
            with suppress(FileExistsError):
                folder.mkdir()
                self._made.append(folder)

    def _holder(self) -> str:
        try:
            return self._directory.session_holder.read_text().strip() or "another session"
        except OSError:
            # the other session has the lock but has not written its name yet
            return "another session"
