"""Result files given by the user, which may be special files: ``/dev/stdout``, a pipe, a link.

Example::

    check_result_file(options.json_out, "--json-out")     # before the work
    write_result(options.json_out, dump_json(document), "--json-out")

A regular file is written atomically. The target of a link is replaced, not the link. A pipe or a character
device is written to directly; a rename would, as root, replace ``/dev/full`` itself.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from pathlib import Path

from invarlock.errors import UsageError
from invarlock.jsonio import write_bytes
from invarlock.problems import Code
from invarlock.staging import check_can_be_made

# A reader that is started at the same time, as a shell starts both ends of a pipe, is ready within milliseconds.
READER_SECONDS = 5.0
_STANDARD = (1, 2)


def check_result_file(path: Path, option: str) -> None:
    """Check before the work that a result can be written to a path.

    Args:
        path: the path of the result.
        option: the option that gives the path, for messages.

    Raises:
        UsageError: when the path is a folder, a block device or a socket, or is not writable.
    """
    found = _status(path, option)
    if found is None or stat.S_ISREG(found.st_mode):
        if found is None or _standard_stream(found) is None:
            check_can_be_made(_target(path, option), option)
    elif not (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode) or _standard_stream(found) is not None):
        raise UsageError(
            f"{option}: {path} is not a file that can be written; give another path", code=Code.OUTPUT_UNWRITABLE
        )
    elif not os.access(path, os.W_OK):
        raise UsageError(f"{option}: {path} is not writable; give another file", code=Code.OUTPUT_UNWRITABLE)


def is_taken(path: Path) -> bool:
    """Return whether a path is already a regular file other than the target of standard output."""
    return path.is_file() and _standard_stream(path.stat()) is None


def write_result(path: Path, data: bytes, option: str) -> None:
    """Write a result to the path given by the user.

    Raises:
        UsageError: when the result cannot be written, or no process reads from the given pipe.
    """
    found = _status(path, option)
    try:
        stream = None if found is None else _standard_stream(found)
        if stream is not None:
            # keep the order with other output before and after it
            sys.stdout.flush()
            _write_all(stream, data)
        elif found is None or stat.S_ISREG(found.st_mode):
            write_bytes(_target(path, option), data)
        else:
            check_result_file(path, option)
            _write_into(path, data)
    except OSError as error:
        reason = "no process reads from this pipe" if error.errno in (errno.ENXIO, errno.EPIPE) else error.strerror
        raise UsageError(
            f"{option}: {path} cannot be written ({reason}); give another file", code=Code.OUTPUT_UNWRITABLE
        ) from None


def _status(path: Path, option: str) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{option}: {path} cannot be written ({reason}); give another file", code=Code.OUTPUT_UNWRITABLE
        ) from None


def _target(path: Path, option: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"{option}: {path} is a broken link ({error}); give another file", code=Code.OUTPUT_UNWRITABLE
        ) from None


def _standard_stream(found: os.stat_result) -> int | None:
    """Return the standard stream that is the same file, or None."""
    for stream in _STANDARD:
        try:
            if os.path.samestat(found, os.fstat(stream)):
                return stream
        except OSError:
            continue
    return None


def _write_into(path: Path, data: bytes) -> None:
    deadline = time.monotonic() + READER_SECONDS
    while True:
        try:
            # without O_CREAT, so that a file deleted in the meantime is not created again
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    try:
        os.set_blocking(descriptor, True)
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
