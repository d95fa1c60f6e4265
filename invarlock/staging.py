"""Hidden folders in which something is made before it appears whole under its name.

Example::

    with staging_folder(target) as folder:
        write_bytes(folder / "README.md", text)
        folder.rename(target)

A staging folder is locked by its maker for as long as the maker lives. A maker that is killed leaves the folder; the
next one beside it finds it unlocked and removes it.
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

_STAGING = re.compile(r"\..+\.staging-[0-9a-f]{8}")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Linux limits a name to 255 bytes, and a character has up to four.
MAX_NAME_CHARACTERS = 50


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Yield a new hidden sibling of ``target``, and remove what is left of it at the end.

    What killed makers left beside it is removed first.

    Raises:
        OSError: when the folder cannot be made.
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
    """Check that a file or folder can be made at a place, so that it is known before the work and not after it.

    Args:
        target: the file or folder; folders above it that are missing would be made too.
        option: what the user names it with, for messages.

    Raises:
        UsageError: when a folder above it is a file, or may not be written to.
    """
    try:
        above = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise UsageError(f"{option}: {target} cannot be made, {above} is no folder; name another place")
    except OSError as error:
        raise UsageError(f"{option}: {target} cannot be made ({error.strerror}); name another place") from None
    if not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"{option}: {target} cannot be made, {above} may not be written to; name another place")


def remove_abandoned(parent: Path) -> None:
    """Remove the staging folders in ``parent`` whose makers are gone."""
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
            # its maker lives, or this file system has no locks and nobody can tell
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
        # before the lock was held, another maker may have taken the folder for an abandoned one
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)
