"""Redirecting what other libraries write to standard error to a log file while an evaluation runs.

Example::

    with notices_in(Path("out.log")) as terminal:
        print("measuring", file=terminal)      # the real standard error
        import torch                           # its warnings go to out.log
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def notices_in(log: Path) -> Iterator[TextIO]:
    """Yield the real standard error for our own lines; everything else written to it is appended to a file.

    Standard error is redirected as a descriptor, since C libraries write there too. Nothing is redirected if the file
    cannot be written, or if standard error is not the descriptor of this process, as in some tests.
    """
    target = _open(log)
    try:
        own = None if target is None or sys.stderr.fileno() != 2 else os.dup(2)
    except (OSError, ValueError, AttributeError):
        own = None
    if target is None or own is None:
        if target is not None:
            os.close(target)
        yield sys.stderr
        return
    sys.stderr.flush()
    os.dup2(target, 2)
    os.close(target)
    with os.fdopen(own, "w", encoding="utf-8", errors="backslashreplace") as terminal:
        try:
            yield terminal
        finally:
            sys.stderr.flush()
            terminal.flush()
            os.dup2(terminal.fileno(), 2)
            if log.stat().st_size == 0:
                log.unlink()


def _open(log: Path) -> int | None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError:
        return None
