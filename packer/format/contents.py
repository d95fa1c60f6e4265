"""The interface through which claims are derived from a pack's files: digests, and documents read on demand.

The builder has them in its staging folder, the verifier in an untrusted folder; both use the same derivations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from invarlock.packer.format.checksums import LINE_ENDS, with_line_ends_restored
from invarlock.packer.format.limits import MAX_HASHING_THREADS, MAX_JSON_BYTES, MAX_JSON_VALUES, MAX_TEXT_BYTES
from invarlock.packer.format.pack_folder import CHANGED, FileState, PackFolder, Progress, size_of

from invarlock.digests import sha256_hex
from invarlock.errors import IntegrityError, MissingFileError
from invarlock.jsonio import parse_json
from invarlock.machine_limits import usable_cores
from invarlock.problems import Code, Problem


class PackFiles(Protocol):
    """Files by their path in the pack."""

    @property
    def digests(self) -> Mapping[str, str]:
        """The sha256 (64 hex) of each file except the control files."""

    def data(self, path: str, limit_bytes: int = MAX_TEXT_BYTES) -> bytes:
        """Return a file's bytes.

        Raises:
            MissingFileError: when there is no such file.
            IntegrityError: when its bytes do not match its digest.
        """

    def document(self, path: str) -> Any:
        """Return a file's JSON document; the bytes parsed are the bytes hashed.

        Raises:
            MissingFileError, IntegrityError: as ``data``.
            DocumentError: when it is not strict JSON within the limits.
        """


@dataclass(frozen=True)
class FilesRead:
    """The files of a pack that one process read: their state at that time, and those that do not match."""

    states: Mapping[str, FileState]
    problems: tuple[Problem, ...]


class SealedFiles:
    """The files of a pack in a folder, each read once and compared with its digest in the checksum file.

    Large files that no claim needs are hashed by background threads: ``hash_ahead`` starts them, ``finish`` hashes the
    rest and waits. Every mismatch is recorded in ``problems``, whichever function found it.
    """

    def __init__(self, folder: PackFolder, digests: Mapping[str, str], progress: Progress | None = None) -> None:
        self._folder = folder
        self._digests = digests
        self._left = dict.fromkeys(digests)
        self._queue: deque[str] = deque()
        self._threads = ThreadPoolExecutor(min(usable_cores(), MAX_HASHING_THREADS))
        self._running: list[Future[None]] = []
        self._progress = progress or (lambda _: None)
        self.problems: list[Problem] = []

    @property
    def path(self) -> Path:
        """The folder of the pack."""
        return self._folder.path

    @property
    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 that the pack states for each file, by path."""
        return self._digests

    def data(self, path: str, limit_bytes: int = MAX_TEXT_BYTES) -> bytes:
        """Return the bytes of a file, compared with the digest that the pack states.

        Raises:
            MissingFileError: when the pack does not list the file, or it is gone.
            IntegrityError: when the bytes do not match the digest.
        """
        if path not in self._digests:
            raise MissingFileError("missing", where=path, code=Code.FILE_ABSENT)
        first = path in self._left
        self._left.pop(path, None)
        try:
            data = self._folder.read(path, limit_bytes)
        except (MissingFileError, IntegrityError) as error:
            raise self._noted(path, error) from None
        if first:
            self._progress(len(data))
        if sha256_hex(data) != self._digests[path]:
            restored = with_line_ends_restored(data)
            changed = restored is not None and sha256_hex(restored) == self._digests[path]
            line_ends = IntegrityError(LINE_ENDS, where=path, code=Code.LINE_ENDS_CHANGED)
            raise self._noted(path, line_ends if changed else _differs(path))
        return data

    def document(self, path: str) -> Any:
        """Return a file as a JSON document.

        Raises:
            MissingFileError, IntegrityError: as ``data``.
            DocumentError: when it is not strict JSON or too large.
        """
        data = self.data(path, MAX_JSON_BYTES)
        return parse_json(data, where=path, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)

    def hash_ahead(self, paths: Iterable[str]) -> None:
        """Start hashing files that will not be read as documents or data."""
        for path in paths:
            del self._left[path]
            self._queue.append(path)
        for _ in range(min(len(self._queue), MAX_HASHING_THREADS)):
            self._running.append(self._threads.submit(self._hash_queue))

    def finish(self) -> tuple[Problem, ...]:
        """Hash the files that were not read, wait for the threads, and return the problems of all files in order."""
        for path in self._left:
            self._hash(path)
        self._left.clear()
        for future in self._running:
            future.result()
        self.close()
        # several processes may read the same file, so its problem is listed once
        return tuple(sorted(set(self.problems), key=str))

    def take_read(self) -> FilesRead:
        """Return the files that were read since the last call."""
        read = FilesRead(dict(self._folder.read_states), tuple(self.problems))
        self._folder.read_states.clear()
        self.problems.clear()
        return read

    def adopt(self, read: FilesRead) -> None:
        """Mark files as read that another process read and compared with the same digests."""
        self.problems += read.problems
        for path in (*read.states, *(problem.where for problem in read.problems)):
            if path in self._left:
                del self._left[path]
                self._progress(size_of(read.states[path]) if path in read.states else 0)
        for path, state in read.states.items():
            if self._folder.read_states.setdefault(path, state) != state:
                self.problems.append(Problem(Code.FILE_CHANGED, path, "", CHANGED))

    def _hash_queue(self) -> None:
        while self._queue:
            try:
                path = self._queue.popleft()
            except IndexError:
                return
            self._hash(path)

    def _hash(self, path: str) -> None:
        try:
            if self._folder.digest(path, self._progress) != self._digests[path]:
                self._noted(path, _differs(path))
        except (MissingFileError, IntegrityError) as error:
            self._noted(path, error)

    def close(self) -> None:
        """Stop the threads and cancel hashing that has not started."""
        self._threads.shutdown(cancel_futures=True)

    def _noted(self, path: str, error: MissingFileError | IntegrityError) -> IntegrityError:
        problem = error.problems[0]
        if isinstance(error, MissingFileError):
            problem = Problem(Code.SEALED_FILE_MISSING, path, "", "missing, but listed in checksums.sha256")
        self.problems.append(problem)
        return IntegrityError(str(problem), problems=[problem])


def _differs(path: str) -> IntegrityError:
    return IntegrityError("its content does not match its checksum", where=path, code=Code.CHECKSUM_DIFFERS)
