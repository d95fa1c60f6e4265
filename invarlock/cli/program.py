"""The program ``invarlock``: its commands in groups, and the run of one of them.

``python -m invarlock.packer`` and ``invarlock advanced evidence-pack`` have the commands of packs alone, with the same
parsers.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from invarlock import __version__
from invarlock.boundary import CommandParser, Commands, run_command
from invarlock.cli.calibrating import add_calibrate
from invarlock.cli.demo import add_demo
from invarlock.cli.evaluating import add_evaluate
from invarlock.cli.fleets import add_fleet
from invarlock.cli.parsing import EXIT_CODES, NO_REPORTS
from invarlock.cli.reference import add_problems
from invarlock.cli.running import add_run, run_suites
from invarlock.cli.tuning import add_tune
from invarlock.cli.verifying import add_verify
from invarlock.packer import cli as packs
from invarlock.problems.page import exit_codes_line
from invarlock.task_records.command import add_records_command

COMPLETION = (
    "Shell completion: pip install 'invarlock[completion]', then: eval \"$(register-python-argcomplete invarlock)\""
)
_HELP_COLUMN = 18


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:2] == ["advanced", "evidence-pack"]:
        return packs.main(given[2:])
    return run_command(lambda: run(given))


def make_parser() -> Program:
    """Return the parser of the command line."""
    parser = Program(
        prog="invarlock",
        description="Compare an edited language-model checkpoint with its baseline, and seal the evidence in packs.",
    )
    parser.add_argument("--version", action="version", version=f"invarlock {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for title, adders in GROUPS.items():
        commands = _Group(subparsers)
        for add in adders:
            add(commands)
        parser.groups[title] = commands.helps
    return parser


def run(given: list[str]) -> int:
    """Run a command and return its exit code.

    Raises:
        InvarLockError: by the command; ``main`` reports it.
        SystemExit: from the parser.
    """
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:
        # imported here: only the shell's completion needs it
        import argcomplete

        argcomplete.autocomplete(parser)
    if given[:1] == ["run"] and not {"-h", "--help"} & set(given):
        return run_suites(given[1:])
    options = parser.parse_args(given)
    options.given = given
    return packs.run_options(options)


class Program(CommandParser):
    """The parser of the program, whose help lists the commands in groups."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.groups: dict[str, dict[str, str]] = {}

    def format_help(self) -> str:
        """Return the help: usage, the groups of commands, exit codes."""
        width = max(40, min(shutil.get_terminal_size().columns, 120) - 2)
        wrapped = ["usage: invarlock COMMAND ...", "", *textwrap.wrap(self.description or "", width)]
        for title, commands in self.groups.items():
            wrapped += ["", f"{title}:"]
            for name, text in commands.items():
                head = f"  {name}".ljust(_HELP_COLUMN)
                wrapped += textwrap.wrap(head + text, width, subsequent_indent=" " * _HELP_COLUMN)
        tail = ("Options of a command: invarlock COMMAND --help", COMPLETION, exit_codes_line())
        for paragraph in tail:
            wrapped += ["", *textwrap.wrap(paragraph, width, break_on_hyphens=False)]
        return "\n".join(wrapped) + "\n"


class _Group:
    """Adds commands to the parser, and keeps their help by name."""

    def __init__(self, subparsers: Commands) -> None:
        self._subparsers = subparsers
        self.helps: dict[str, str] = {}

    def add_parser(self, name: str, **given: Any) -> CommandParser:
        """Return the parser of a new command; without a description it has its help as one."""
        self.helps[name] = text = given.pop("help")
        given.setdefault("description", f"{text[0].upper()}{text[1:]}.")
        given.setdefault("epilog", NO_REPORTS)
        return self._subparsers.add_parser(name, **given)


def _add_records(commands: Commands) -> None:
    add_records_command(commands, EXIT_CODES)


def _add_advanced(commands: Commands) -> None:
    parser = commands.add_parser(
        "advanced", help="commands under their earlier names: evidence-pack COMMAND, calibrate"
    )
    inner = parser.add_subparsers(required=True, metavar="COMMAND")
    inner.add_parser("evidence-pack", help="keygen, build, sign, attest, trust, inspect, verify, diff", add_help=False)
    add_calibrate(inner)


GROUPS = {
    "compare checkpoints": (add_demo, add_evaluate, add_run, add_fleet, add_tune, add_calibrate, _add_records),
    "check evidence": (add_verify, packs.add_verify_receipt, packs.add_inspect, packs.add_diff, packs.add_trust),
    "publish evidence": (packs.add_bom, packs.add_card),
    "make evidence packs": (packs.add_keygen, packs.add_build, packs.add_sign, packs.add_attest, packs.add_merge),
    "reference": (add_problems, _add_advanced),
}
