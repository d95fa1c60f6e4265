"""The paths that a container writes: created before it starts, owned by its user, removed if they stay empty."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from invarlock.errors import UsageError
from invarlock.problems import Code
from invarlock.runtime.container import Caller


@dataclass(frozen=True)
class WritablePaths:
    """The paths that a container writes.

    Attributes:
        folders: written by this container alone; created if missing.
        files: written by this container alone; created empty if missing.
        caches: shared with other processes; created if missing, and existing ones keep their owner.
    """

    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()


@contextmanager
def grant_write_access(paths: WritablePaths, by: Caller) -> Iterator[None]:
    """Give a container write access to its paths, creating them if needed; remove those that stay empty afterwards.

    Args:
        paths: the paths that the container writes.
        by: the user who starts the container.

    Raises:
        UsageError: when one cannot be created.
    """
    made: list[Path] = []
    try:
        for path in (*paths.folders, *paths.caches, *(file.parent for file in paths.files)):
            made += _make(path)
        for file in paths.files:
            if not file.exists():
                file.touch()
                made.append(file)
        if by.is_root:
            for path in (*paths.folders, *paths.files, *(path for path in paths.caches if path in made)):
                _change_owner(path, by)
        yield
    except OSError as error:
        raise UsageError(
            f"{error.filename}: cannot be created or given to the container ({error.strerror})",
            code=Code.CONTAINER_UNAVAILABLE,
        ) from None
    finally:
        for path in reversed(made):
            _remove_empty(path)


def writable_by(path: Path, by: Caller) -> bool:
    """Return whether the user of a container may write an existing folder."""
    if not by.is_root:
        return os.access(path, os.W_OK)
    found = path.stat()
    return bool(found.st_mode & 0o002) or (found.st_uid == by.user and bool(found.st_mode & 0o200))


def readable_by(path: Path, by: Caller) -> bool:
    """Return whether the user of a container may read a file."""
    if not by.is_root:
        return os.access(path, os.R_OK)
    found = path.stat()
    return bool(found.st_mode & 0o004) or (found.st_uid == by.user and bool(found.st_mode & 0o400))


def _make(folder: Path) -> list[Path]:
    """Create a folder and its parents; return the created ones, outermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _change_owner(path: Path, by: Caller) -> None:
    """Change the owner of a file, or of a folder with its content, to the container's user.

    A file with several hard links keeps its owner: it may be the hub client's, linked into a run.
    """
    os.chown(path, by.user, by.group)
    for folder, names, files in os.walk(path):
        for name in names:
            os.chown(Path(folder) / name, by.user, by.group, follow_symlinks=False)
        for name in files:
            if (Path(folder) / name).lstat().st_nlink == 1:
                os.chown(Path(folder) / name, by.user, by.group, follow_symlinks=False)


def _remove_empty(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            path.rmdir()
        elif path.stat().st_size == 0:
            path.unlink()
