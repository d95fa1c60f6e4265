"""Printing by commands: one line at a time, with terminal control characters escaped.

Example::

    say(f"verified: {path}")           # standard output
    say_error(f"error: {error}")       # standard error

Names of folders, tensors and models may come from an attacker, and must not move the cursor or imitate a line printed
by InvarLock.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from invarlock.errors import OutputError, printable

# A function that shows a line about progress.
ShowLine = Callable[[str], None]

GOOD = ("VERIFIED", "PASS", "passed", "verified")
GREEN, RED, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"
# A result at the start of a line, where no name can be.
_RESULT = re.compile(
    r"^(?P<before>(verdict: )?)(?P<word>NOT VERIFIED|VERIFIED|NOT SIGNED|PASS|FAILED|FAIL|passed)(?![A-Za-z0-9_])"
)


def say(*lines: str) -> None:
    """Print lines to standard output; a newline within one is escaped.

    Raises:
        OutputError: when they cannot be written.
    """
    try:
        for line in lines:
            print(printable(line))
    except OSError as error:
        raise output_error(error) from error


def say_results(*lines: str) -> None:
    """Print lines; on a terminal, a result at the start of a line is green or red, unless ``NO_COLOR`` is set.

    Raises:
        OutputError: when they cannot be written.
    """
    if not is_coloured(sys.stdout):
        say(*lines)
        return
    try:
        for line in lines:
            print(_RESULT.sub(_paint, printable(line)))
    except OSError as error:
        raise output_error(error) from error


def is_coloured(stream: TextIO) -> bool:
    """Return whether colours are printed: only on a terminal that supports them, and not if ``NO_COLOR`` is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _paint(found: re.Match[str]) -> str:
    return f"{found['before']}{GREEN if found['word'] in GOOD else RED}{found['word']}{PLAIN}"


def say_json(document: object) -> None:
    """Print a document as indented JSON in ASCII.

    Raises:
        OutputError: when it cannot be written.
    """
    say(*json.dumps(document, indent=2, sort_keys=True).split("\n"))


def say_error(*lines: str) -> None:
    """Print lines to standard error, if it is usable."""
    with suppress(OSError):
        for line in lines:
            print(printable(line), file=sys.stderr)


def flush_output() -> None:
    """Flush standard output.

    Raises:
        OutputError: when it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        raise output_error(error) from error


def output_error(error: OSError) -> OutputError:
    """Return the error to raise when standard output cannot be written."""
    return OutputError(f"standard output: cannot be written ({error.strerror or error}); check its target")


def prepare_output() -> None:
    """Make the standard streams usable even if they are closed or have a limited encoding."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # otherwise the next opened file gets the descriptor of a standard stream, and printed text goes into it
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")


def abandon_full_streams() -> None:
    """Redirect unusable standard streams to the null device, since Python would report an error at exit."""
    for number, stream in ((1, sys.__stdout__), (2, sys.__stderr__)):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - it is open for as long as the process is
