"""What all commands of ``invarlock`` share: the exit codes in their help, numbers of options, needed packages."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from invarlock.problems import ExitCode
from invarlock.problems.page import exit_codes_line

NO_REPORTS = exit_codes_line(ExitCode.OK, ExitCode.USAGE, ExitCode.MISSING)
EXIT_CODES = exit_codes_line(ExitCode.OK, ExitCode.USAGE, ExitCode.MISSING, ExitCode.REPORT)
MEASURING = ("torch", "transformers", "safetensors")


def check_installed(*packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        ModuleNotFoundError: for the first that is not, which `run_command` reports with the extra that installs it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def share(text: str) -> float:
    """Return a share of an option.

    Raises:
        argparse.ArgumentTypeError: when it is not above 0 and up to 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; use a number above 0 and up to 1")
    return value


def positive(text: str) -> int:
    """Return a positive whole number of an option.

    Raises:
        argparse.ArgumentTypeError: when it is not one.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
