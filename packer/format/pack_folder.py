"""Safe reading of an untrusted pack folder: through directory descriptors, following no link, each file once.

Example::

    with open_pack(path) as folder:
        manifest = folder.read("manifest.json", MAX_MANIFEST_BYTES)
        listing = folder.listing()   # every regular file below, and what is unsafe
        ...
        list(folder.changes(listing))   # files that changed since
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from pathlib import Path

from invarlock.packer.format.checksums import CHECKSUMS_NAME, MANIFEST_NAME, SIGNATURE_NAME, check_path
from invarlock.packer.format.layout import REPORT_NAME
from invarlock.packer.format.limits import MAX_FILES, MAX_FOLDERS, MAX_PACK_BYTES, MAX_PROBLEMS, PIECE_BYTES

from invarlock.errors import IntegrityError, MissingFileError
from invarlock.problems import Code, Problem

TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
CHANGED = "it changed while the pack was verified"
NOT_REGULAR = "a link, device or pipe; a pack may contain only regular files"
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC

# Size, mtime, ctime and inode: at least one of them changes when the file does.
# A tuple of them would take three times the memory, twice for each of up to 100,000 files.
FileState = bytes
_STATE = struct.Struct("<4Q")
_64_BITS = (1 << 64) - 1
Progress = Callable[[int], object]


@dataclass
class Listing:
    """The regular files of a pack by path with their state, and the entries that are not allowed.

    ``cut_off`` is set if the listing is incomplete; this is also one of the problems.
    """

    files: dict[str, FileState] = field(default_factory=dict)
    folders: int = 0
    entries: int = 0
    problems: list[Problem] = field(default_factory=list)
    cut_off: bool = False

    @property
    def total_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(size_of(state) for state in self.files.values())


@dataclass
class PackFolder:
    """An open pack: ``descriptor`` refers to its folder, ``read_states`` has the state of each file when it was read.

    Files in ``added`` are read as if they were in the folder.
    """

    path: Path
    descriptor: int
    added: Mapping[str, bytes] = field(default_factory=dict)
    read_states: dict[str, FileState] = field(default_factory=dict)
    _last_folders: dict[int, tuple[str, int]] = field(default_factory=dict, repr=False)

    def listing(self) -> Listing:
        """Return all files in the folder and its subfolders; links, devices and unsafe names are problems."""
        listing = Listing()
        self._list(self.descriptor, "", listing)
        if listing.total_bytes > MAX_PACK_BYTES:
            listing.problems.append(_oversized(f"more than {MAX_PACK_BYTES} bytes"))
        return listing

    def changes(self, before: Listing) -> Iterator[Problem]:
        """Yield a problem for each file that changed since it was listed or read."""
        after = self.listing()
        for path in sorted(before.files.keys() | after.files.keys()):
            state = after.files.get(path)
            if state is None or before.files.get(path) != state or self.read_states.get(path, state) != state:
                yield _changed(path)

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return a file's bytes, read once.

        Raises:
            MissingFileError: when it does not exist.
            IntegrityError: when it is not a regular file, is too large, is behind a link, or changes while it is read.
        """
        if path in self.added:
            return _bounded(path, self.added[path], limit_bytes)
        descriptor = self._open(path)
        try:
            size = size_of(self._state(path, descriptor))
            if size > limit_bytes:
                raise _too_large(path, size, limit_bytes)
            data = os.read(descriptor, size + 1)
            # a read may return fewer bytes than the file has; the file's state shows later growth
            while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
                data += more
            self._check_unchanged(path, descriptor, len(data))
        except OSError as error:
            raise _unreadable(path, error) from None
        finally:
            os.close(descriptor)
        return data

    def digest(self, path: str, progress: Progress) -> str:
        """Return the sha256 (64 hex) of a file, read once in chunks; safe to call from several threads.

        ``progress`` is called with the size of each chunk.

        Raises:
            MissingFileError, IntegrityError: as ``read``.
        """
        digest, total = hashlib.sha256(), 0
        descriptor = self._open(path)
        try:
            size = size_of(self._state(path, descriptor))
            piece = memoryview(bytearray(min(size + 1, PIECE_BYTES)))
            while count := os.readv(descriptor, [piece]):
                digest.update(piece[:count])
                total += count
                progress(count)
                if total > size:
                    break
            self._check_unchanged(path, descriptor, total)
        except OSError as error:
            raise _unreadable(path, error) from None
        finally:
            os.close(descriptor)
        return digest.hexdigest()

    def _open(self, path: str) -> int:
        """Return the open descriptor of a file; the caller closes it."""
        check_path(path)
        folder, _, name = path.rpartition("/")
        try:
            return os.open(name, _OPEN_FILE, dir_fd=self._open_folder(folder))
        except FileNotFoundError:
            raise self._missing(path) from None
        except OSError as error:
            raise _unreadable(path, error) from None

    def _missing(self, path: str) -> MissingFileError:
        """Return the error for a file that does not exist; a folder without any control file is no pack at all."""
        if path == MANIFEST_NAME and not any(
            os.path.lexists(self.path / name) for name in (CHECKSUMS_NAME, SIGNATURE_NAME)
        ):
            return MissingFileError(_instead_of_pack(self.path), where=str(self.path), code=Code.PACK_MISSING)
        return MissingFileError("no such file in the pack", where=path, code=Code.CONTROL_FILE_MISSING)

    def _open_folder(self, path: str) -> int:
        """Return the descriptor of a folder, opened one path segment at a time; each thread keeps its last one open."""
        if not path:
            return self.descriptor
        thread = threading.get_ident()
        kept, descriptor = self._last_folders.get(thread, ("", -1))
        if kept == path:
            return descriptor
        inner = os.dup(self.descriptor)
        for step in path.split("/"):
            try:
                following = os.open(step, _OPEN_FOLDER, dir_fd=inner)
            finally:
                os.close(inner)
            inner = following
        if kept:
            os.close(descriptor)
        self._last_folders[thread] = (path, inner)
        return inner

    def close(self) -> None:
        """Close the folders that threads still have open."""
        while self._last_folders:
            os.close(self._last_folders.popitem()[1][1])

    def _state(self, path: str, descriptor: int) -> FileState:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            words = "a folder where a file should be"
            raise IntegrityError(words, where=path, code=Code.NOT_A_REGULAR_FILE)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(NOT_REGULAR, where=path, code=Code.NOT_A_REGULAR_FILE)
        self.read_states[path] = _file_state(status)
        return self.read_states[path]

    def _check_unchanged(self, path: str, descriptor: int, count: int) -> None:
        before = self.read_states[path]
        if count != size_of(before) or _file_state(os.fstat(descriptor)) != before:
            raise IntegrityError("it changed while it was read", where=path, code=Code.FILE_CHANGED)

    def _list(self, descriptor: int, prefix: str, listing: Listing) -> None:
        # entries are counted before any subfolder is opened, so that the limit holds for all folders together
        left = MAX_FILES + MAX_FOLDERS - listing.entries
        with os.scandir(descriptor) as found:
            entries = sorted(islice(found, left + 1), key=attrgetter("name"))
        listing.entries += len(entries)
        if len(entries) > left:
            _cut_off(listing)
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if listing.cut_off:
                return
            if (
                len(listing.files) >= MAX_FILES
                or listing.folders >= MAX_FOLDERS
                or len(listing.problems) >= MAX_PROBLEMS
            ):
                _cut_off(listing)
                return
            try:
                check_path(path)
                status = entry.stat(follow_symlinks=False)
            except IntegrityError as error:
                listing.problems += error.problems
                continue
            except FileNotFoundError:
                listing.problems.append(_changed(path))
                continue
            except OSError as error:
                words = f"cannot be read ({error.strerror})"
                listing.problems.append(Problem(Code.FILE_UNREADABLE, path, "", words))
                continue
            if stat.S_ISREG(status.st_mode):
                listing.files[path] = _file_state(status)
            elif stat.S_ISDIR(status.st_mode):
                listing.folders += 1
                self._list_inner(descriptor, entry.name, path, listing)
            else:
                listing.problems.append(Problem(Code.NOT_A_REGULAR_FILE, path, "", NOT_REGULAR))

    def _list_inner(self, descriptor: int, name: str, path: str, listing: Listing) -> None:
        try:
            inner = os.open(name, _OPEN_FOLDER, dir_fd=descriptor)
        except OSError as error:
            listing.problems += _unreadable(path, error).problems
            return
        try:
            self._list(inner, f"{path}/", listing)
        finally:
            os.close(inner)


@contextmanager
def open_pack(path: Path, added: Mapping[str, bytes] | None = None) -> Iterator[PackFolder]:
    """Open a pack's folder; files in ``added`` are read as if they were in the folder.

    Raises:
        MissingFileError: when the folder does not exist, or the path is a link or another kind of file.
    """
    try:
        descriptor = os.open(path, _OPEN_FOLDER)
    except OSError as error:
        reason = _something_else(path) or f"no evidence pack found ({error.strerror}); give the pack's folder"
        if not os.path.lexists(path):
            reason = "no such file or folder; check the path"
        raise MissingFileError(reason, where=str(path), code=Code.PACK_MISSING) from None
    folder = PackFolder(path, descriptor, added or {})
    try:
        _check_is_pack(path, descriptor)
        yield folder
    finally:
        folder.close()
        os.close(descriptor)


def enclosing_pack(path: Path) -> Path | None:
    """Return the pack that a file or folder lies in, or None."""
    return next((above for above in path.parents if is_pack(above)), None)


def is_pack(folder: Path) -> bool:
    """Return whether a folder has the two files that every pack has."""
    return all((folder / name).is_file() for name in (MANIFEST_NAME, CHECKSUMS_NAME))


def _instead_of_pack(path: Path) -> str:
    """Describe a folder that is no pack, and what to do about it."""
    if (path / REPORT_NAME).is_file():
        seal = shlex.join(["invarlock", "build", "PACK", "--report", str(path)])
        return f"not a pack but an output folder of evaluate; seal it with: {seal}"
    if (pack := enclosing_pack(path)) is not None:
        return f"a folder of the pack {pack}; give that"
    return f"not a pack: no {MANIFEST_NAME} in it; give the folder of a pack"


def _something_else(path: Path) -> str | None:
    """Describe a path that is not a folder, and what to do about it; None if its kind is unknown."""
    if path.is_symlink():
        return f"a link; give the folder that it points to, {os.path.realpath(path)}"
    if not path.is_file():
        return None
    if zipfile.is_zipfile(path):
        return "an archive; unpack it (unzip) and give the folder"
    if path.name.endswith(TAR_SUFFIXES):
        return "an archive; unpack it (tar -xf) and give the folder"
    if (pack := enclosing_pack(path)) is not None:
        return f"belongs to the pack {pack}; give that"
    return "a file; an evidence pack is a folder, give that"


def _check_is_pack(path: Path, descriptor: int) -> None:
    """Refuse a folder without a manifest if one of its subfolders is the pack."""
    try:
        names = [MANIFEST_NAME] if MANIFEST_NAME in os.listdir(descriptor) else sorted(path.glob(f"*/{MANIFEST_NAME}"))
    except OSError:
        return
    if len(names) == 1 and names != [MANIFEST_NAME]:
        words = f"not an evidence pack; did you mean {Path(names[0]).parent}?"
        raise MissingFileError(words, where=str(path), code=Code.PACK_MISSING)


def _cut_off(listing: Listing) -> None:
    """Mark a listing as incomplete."""
    limits = f"{MAX_FILES} files, {MAX_FOLDERS} folders or {MAX_PROBLEMS} problems"
    listing.problems.append(_oversized(f"more than {limits}; the rest was not checked"))
    listing.cut_off = True


def _bounded(path: str, data: bytes, limit_bytes: int) -> bytes:
    if len(data) > limit_bytes:
        raise _too_large(path, len(data), limit_bytes)
    return data


def _too_large(path: str, size: int, limit_bytes: int) -> IntegrityError:
    words = f"{size} bytes, more than the limit of {limit_bytes}"
    return IntegrityError(words, where=path, code=Code.FILE_TOO_LARGE)


def _unreadable(path: str, error: OSError) -> IntegrityError:
    words = f"cannot be read safely ({error.strerror}); links are not followed"
    return IntegrityError(words, where=path, code=Code.FILE_UNREADABLE)


def _oversized(message: str) -> Problem:
    return Problem(Code.PACK_TOO_LARGE, "", "", f"the pack has {message}")


def _changed(path: str) -> Problem:
    return Problem(Code.FILE_CHANGED, path, "", CHANGED)


def _file_state(status: os.stat_result) -> FileState:
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    # times before 1970 are negative, and those after 2554 need more than 64 bits
    return _STATE.pack(*(fact & _64_BITS for fact in facts))


def size_of(state: FileState) -> int:
    """Return the bytes of a file from its state."""
    return int(_STATE.unpack(state)[0])
