"""The command line ``invarlock``: one module a command, and the program that lists them."""

from collections.abc import Sequence

from invarlock.starting import start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return start("invarlock.cli.program", arguments)
