"""The first moment of a command, before anything of it is imported: Ctrl-C ends it on one line, as it does later."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

# The exit code of a command that Ctrl-C ended, as a shell has it.
INTERRUPTED = 130


def start(program: str, arguments: Sequence[str] | None = None) -> int:
    """Import the module of a program, call its ``main`` and return the exit code."""
    try:
        main = import_module(program).main
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return int(main(arguments))
