"""The command line ``invarlock``: one module a command, and the program that lists them."""

from invarlock.cli.program import main

__all__ = ["main"]
