"""A pack's folder, read without trusting it: through directory descriptors, no link followed, each file once.

Example::

    with open_pack(path) as folder:
        manifest = folder.read("manifest.json", MAX_MANIFEST_BYTES)
        listing = folder.listing()   # every regular file below, and what is unsafe
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from invarlock.packer.checksums import check_path

from invarlock.errors import IntegrityError, MissingFileError

# A full run has some 700 cases of 7 files; ten thousand reports are 70,000 files.
MAX_FILES = 200_000
# Without weights a release-profile pack of 700 cases has some 5 GB.
MAX_PACK_BYTES = 32 * 1024**3
MAX_PROBLEMS = 50

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass
class Listing:
    """The regular files of a pack by path, their sizes in bytes, and entries that a pack may not have."""

    sizes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PackFolder:
    """An open pack; ``descriptor`` is its folder's."""

    path: Path
    descriptor: int

    def listing(self) -> Listing:
        """Return all files below; links, devices and unsafe names are problems."""
        listing = Listing()
        self._list(self.descriptor, "", listing)
        if sum(listing.sizes.values()) > MAX_PACK_BYTES:
            listing.problems.append(f"the pack has more than {MAX_PACK_BYTES} bytes")
        return listing

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return a file's bytes, read once.

        Raises:
            MissingFileError: when there is none.
            IntegrityError: when it is no regular file, too large, behind a link, or changes while it is read.
        """
        check_path(path)
        *folders, name = path.split("/")
        descriptor = os.dup(self.descriptor)
        try:
            for folder in folders:
                descriptor = _step(descriptor, folder)
            return _read_file(descriptor, name, path, limit_bytes)
        except FileNotFoundError:
            raise MissingFileError(f"{path}: no such file in the pack") from None
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read safely ({error.strerror}); links are not followed") from None
        finally:
            os.close(descriptor)

    def _list(self, descriptor: int, prefix: str, listing: Listing) -> None:
        with os.scandir(descriptor) as entries:
            names = sorted(entries, key=lambda entry: entry.name)
        for entry in names:
            path = f"{prefix}{entry.name}"
            if len(listing.sizes) >= MAX_FILES or len(listing.problems) >= MAX_PROBLEMS:
                listing.problems.append(f"the pack has more than {MAX_FILES} files, or too many problems")
                return
            try:
                check_path(path)
            except IntegrityError as error:
                listing.problems.append(str(error))
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                inner = os.open(entry.name, _OPEN_FOLDER, dir_fd=descriptor)
                try:
                    self._list(inner, f"{path}/", listing)
                finally:
                    os.close(inner)
            elif stat.S_ISREG(status.st_mode):
                listing.sizes[path] = status.st_size
            else:
                listing.problems.append(f"{path}: a link, device or pipe; a pack holds regular files only")


@contextmanager
def open_pack(path: Path) -> Iterator[PackFolder]:
    """Open a pack's folder.

    Raises:
        MissingFileError: when there is no such folder, or the name is a link.
    """
    try:
        descriptor = os.open(path, _OPEN_FOLDER)
    except OSError as error:
        raise MissingFileError(f"{path}: no evidence pack there ({error.strerror})") from None
    try:
        yield PackFolder(path, descriptor)
    finally:
        os.close(descriptor)


def _step(descriptor: int, folder: str) -> int:
    """Return the descriptor of an inner folder; the outer one is closed when that worked."""
    inner = os.open(folder, _OPEN_FOLDER, dir_fd=descriptor)
    os.close(descriptor)
    return inner


def _read_file(descriptor: int, name: str, path: str, limit_bytes: int) -> bytes:
    file = os.open(name, _OPEN_FILE, dir_fd=descriptor)
    with os.fdopen(file, "rb") as stream:
        before = os.fstat(stream.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise IntegrityError(f"{path}: a link, device or pipe; a pack holds regular files only")
        if before.st_size > limit_bytes:
            raise IntegrityError(f"{path}: {before.st_size} bytes, more than the limit of {limit_bytes}")
        data = stream.read(limit_bytes + 1)
        after = os.fstat(stream.fileno())
    if len(data) != before.st_size or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise IntegrityError(f"{path}: it changed while it was read")
    return data
