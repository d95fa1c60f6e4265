"""Hidden staging folders, in which a result is built before it is renamed into place.

Example::

    with staging_folder(target) as folder:
        write_bytes(folder / "README.md", text)
        folder.rename(target)

A staging folder is locked by its process for the lifetime of the process. A killed process leaves the folder; the
next process finds it unlocked and removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invarlock.errors import UsageError
from invarlock.problems import Code

_STAGING = re.compile(r"\..+\.staging-[0-9a-f]{8}")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Linux limits a file name to 255 bytes, and a character has up to four bytes.
MAX_NAME_CHARACTERS = 50


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Yield a new hidden sibling folder of ``target``, and remove its remains at the end.

    Staging folders of killed processes are removed first.

    Raises:
        OSError: when the folder cannot be created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    folder, descriptor = _make(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def check_can_be_made(target: Path, option: str) -> None:
    """Check before the work that a file or folder can be created.

    Args:
        target: the file or folder; missing parent folders would be created too.
        option: the option that gives the path, for messages.

    Raises:
        UsageError: when a parent folder is a file, or is not writable.
    """
    try:
        above = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise UsageError(
                f"{option}: {target} cannot be created, {above} is not a folder; give another path",
                code=Code.OUTPUT_UNWRITABLE,
            )
    except OSError as error:
        raise UsageError(
            f"{option}: {target} cannot be created ({error.strerror}); give another path", code=Code.OUTPUT_UNWRITABLE
        ) from None
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(
            f"{option}: {target} cannot be created, {above} is not writable; give another path",
            code=Code.OUTPUT_UNWRITABLE,
        )


def remove_abandoned(parent: Path) -> None:
    """Remove the staging folders in ``parent`` whose processes have ended."""
    for entry in parent.iterdir():
        if _STAGING.fullmatch(entry.name) is None:
            continue
        try:
            descriptor = os.open(entry, _OPEN)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry, ignore_errors=True)
        except OSError:
            # the folder's process is alive, or the file system has no locks, so this is unknown
            continue
        finally:
            os.close(descriptor)


def _make(target: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        folder = target.parent / f".{target.name[:MAX_NAME_CHARACTERS]}.staging-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            descriptor = os.open(folder, _OPEN)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            return folder, descriptor
        # another process may have removed the folder as abandoned before it was locked
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)
