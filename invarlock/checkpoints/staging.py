"""Makes checkpoint folders that appear completely or not at all.

Example::

    with staged([target]) as folders:
        link_or_copy(source / "tokenizer.json", folders[target] / "tokenizer.json")
    # target is there now; had anything failed, nothing would be

A folder is filled under a hidden name in the same parent folder, flushed to disk, and renamed. A killed process leaves
no target, only the hidden folder, which the next process removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from invarlock.checkpoints.digests import digest_file
from invarlock.errors import CheckpointError
from invarlock.jsonio import sync_folder
from invarlock.staging import staging_folder

COPY_CHUNK_BYTES = 4 * 1024 * 1024
# _IOW(0x94, 9, int) from linux/fs.h
FICLONE = 0x40049409


@contextmanager
def staged(targets: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Yield a staging folder for each target; rename all into place when the block ends without an error.

    A target that the block removes from the dictionary is left out.

    Raises:
        CheckpointError: when a target exists, or the disk fails.
    """
    for target in targets:
        if os.path.lexists(target):
            raise CheckpointError(f"{target}: is there already; remove it or choose another folder")
    renamed: list[Path] = []
    try:
        with ExitStack() as stack:
            folders = {target: stack.enter_context(staging_folder(target)) for target in targets}
            yield folders
            for target, folder in folders.items():
                sync_folder(folder)
                folder.rename(target)
                renamed.append(target)
                sync_folder(target.parent)
    except BaseException as error:  # Ctrl-C too: all targets or none
        for folder in renamed:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            where = error.filename or targets[0]
            raise CheckpointError(f"{where}: {error.strerror}; check disk space and permissions") from None
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to the file ``source`` (symbolic links are resolved), or a durable copy of it.

    To change such a file later, write a new one: a link shares the bytes of its source.
    """
    real = source.resolve(strict=True)
    try:
        target.hardlink_to(real)
    except OSError:
        # another file system, one without hard links, or another user's file: copying works in all these cases
        copy_and_digest(real, target)


def clone_and_digest(source: Path, target: Path) -> str:
    """Clone a file if the file system can share blocks until one of them is written (Btrfs, XFS), else copy it.

    Returns the sha256 of the new file's bytes, 64 hex digits.
    """
    with target.open("xb") as writer:
        cloned = clone_into(source, writer)
        if cloned:
            os.fsync(writer.fileno())
    if cloned:
        return digest_file(target)
    target.unlink()
    return copy_and_digest(source, target)


def clone_into(source: Path, writer: BinaryIO) -> bool:
    """Make an empty file share the blocks of ``source``; return False if the file system does not support it."""
    with source.open("rb") as reader:
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
        except OSError:
            # another file system, or one that cannot clone
            return False
    return True


def copy_and_digest(source: Path, target: Path) -> str:
    """Copy a file, flush it to disk, and return the sha256 of the bytes written, 64 hex digits."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(COPY_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()
