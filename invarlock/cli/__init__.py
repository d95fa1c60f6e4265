"""The command line ``invarlock``: one module a command, and the program that lists them."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; Ctrl-C during the imports ends it like one later."""
    try:
        # imported here, where Ctrl-C is already caught
        from invarlock.cli import program
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return program.main(arguments)
