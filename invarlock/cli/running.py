"""``invarlock run``: pytest with the suites that ship with InvarLock, or with a suites folder of the user.

Example::

    invarlock run -m smoke -n 2          # pytest -m smoke -n 2 over the shipped suites
    invarlock run ./suites -m laptop     # over another suites folder
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from invarlock.boundary import Commands
from invarlock.catalog.node_ids import file_part
from invarlock.catalog.shipped import shipped_suites
from invarlock.cli.parsing import MEASURING, check_installed

PLUGIN = "invarlock.harness.plugin"


def add_run(commands: Commands) -> None:
    """Add the command ``run``."""
    parser = commands.add_parser(
        "run",
        help="run validation suites in pytest and build an evidence pack",
        usage="invarlock run [SUITES] [PYTEST OPTION ...]",
        description="Run the suites that ship with InvarLock, or those of another suites folder, in pytest. "
        "All options are those of pytest and of InvarLock's plugin: docs/settings.md lists them. "
        "The exit code is pytest's: 0 every case is as expected, 1 a case is not, 2 interrupted, 4 invalid usage, "
        "5 no case is selected.",
        epilog="example: invarlock run -m smoke -k noop_control -n 2",
    )
    parser.add_argument(
        "suites",
        nargs="?",
        metavar="SUITES",
        help="a suites folder or node ids in it; must come first; default: the shipped suites",
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="PYTEST OPTION", help="passed on to pytest")


def run_suites(given: Sequence[str]) -> int:
    """Run pytest with the given arguments and return its exit code.

    Raises:
        ModuleNotFoundError: when a package that suites need is not installed.
    """
    check_installed("pytest", *MEASURING)
    # imported here to keep --help fast
    import pytest

    return int(pytest.main(pytest_arguments(given)))


def pytest_arguments(given: Sequence[str]) -> list[str]:
    """Return the arguments of pytest.

    The shipped suites run without the configuration of a project that their environment lies in. Pytest's cache is in
    the working directory, since an installed package may be read-only.
    """
    if given and not given[0].startswith("-") and Path(file_part(given[0])).exists():
        return ["-p", PLUGIN, *given]
    suites = shipped_suites().resolve()
    return [
        "-p", PLUGIN, "-c", os.devnull, "--rootdir", str(suites.parent), "--import-mode", "importlib",
        "-o", f"cache_dir={Path.cwd() / '.pytest_cache'}", str(suites), *given,
    ]  # fmt: skip
