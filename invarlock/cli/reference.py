"""``invarlock problems``: what the codes of problems mean and what to do."""

from __future__ import annotations

import argparse

from invarlock.boundary import Commands
from invarlock.errors import UsageError
from invarlock.nearest import did_you_mean
from invarlock.output import say
from invarlock.problems import Code
from invarlock.problems.page import problems_page


def add_problems(commands: Commands) -> None:
    """Add the command ``problems``."""
    parser = commands.add_parser("problems", help="explain problem codes: all of them, or the given ones")
    parser.add_argument("codes", nargs="*", metavar="CODE", help="such as checksum_differs")
    parser.set_defaults(command=_problems)


def _problems(options: argparse.Namespace) -> int:
    if not options.codes:
        say(*problems_page().removesuffix("\n").split("\n"))
        return 0
    known = {code.value: code for code in Code}
    for name in options.codes:
        if name not in known:
            raise UsageError(
                f"{name!r} is not a problem code{did_you_mean(name, known)}; list all: invarlock problems",
                code=Code.USAGE_INVALID,
            )
    for code in (known[name] for name in options.codes):
        say(f"{code.value} (exit code {code.exit_code.value})", f"  {code.meaning}", f"  {code.remedy}")
    return 0
