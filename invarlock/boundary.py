"""The entry and exit of each command: every outcome is a one-line message and a documented exit code."""

from __future__ import annotations

import argparse
import os
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from invarlock.errors import CombinedError, Interrupted, InvarLockError, disk_refuses
from invarlock.nearest import did_you_mean
from invarlock.output import abandon_full_streams, flush_output, prepare_output, say_error
from invarlock.problems import ExitCode
from invarlock.starting import INTERRUPTED

# The value 1 also prints the traceback of an error, for developers of InvarLock.
TRACEBACK_VARIABLE = "INVARLOCK_TRACEBACK"
# The extra that installs a package, by import name.
EXTRAS = {
    "torch": "suite",
    "transformers": "suite",
    "accelerate": "suite",
    "safetensors": "suite",
    "huggingface_hub": "suite",
    "tokenizers": "suite",
    "pytest": "suite",
    "torchao": "deployable",
    "bitsandbytes": "deployable",
    "pyarrow": "parquet",
    "yaml": "yaml",
    "rfc3161_client": "timestamps",
    "model_signing": "model-signatures",
    "cryptography": "encrypted-keys",
}


class CommandParser(argparse.ArgumentParser):
    """An argument parser that escapes control characters in its messages, and takes paths after options."""

    _intermixing = False

    def error(self, message: str) -> NoReturn:
        """Print a usage error on one line, with control characters replaced, and exit."""
        say_error(f"{self.prog}: error: {message}; options: {self.prog} --help")
        self.exit(int(ExitCode.USAGE))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse arguments; unknown arguments are an error here, so that the message names this command.

        A path after an option may be one more of several paths, which argparse recognises only in its intermixed mode.
        """
        found, unknown = super().parse_known_args(args, namespace)
        if self._intermixing:
            return found, unknown
        if unknown and not any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in self._actions):
            self._intermixing = True
            try:
                found, unknown = self.parse_known_intermixed_args(args, namespace)
            finally:
                self._intermixing = False
        if unknown:
            nearest = did_you_mean(unknown[0].partition("=")[0], list(self._option_string_actions))
            self.error(f"unknown: {' '.join(unknown)}{nearest}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            message = f"unknown: {value!r}{did_you_mean(str(value), known)}; choose from {', '.join(known)}"
            raise argparse.ArgumentError(action, message)


class Commands(Protocol):
    """An object to which a command's parser can be added: argparse's subparsers, or the groups of ``invarlock``."""

    def add_parser(self, name: str, **given: Any) -> CommandParser:
        """Return the parser of a new command."""


def run_command(work: Callable[[], int]) -> int:
    """Do the work of a command and return its exit code.

    An unexpected error is reported in one line, with the exit code of a usage error: 1 is reserved for
    `invarlock evaluate`, where it means that a gate failed.

    Raises:
        SystemExit: from the parser, for ``--help`` and malformed command lines.
    """
    prepare_output()
    try:
        code = work()
        flush_output()
        return code
    except InvarLockError as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            _complain(error, *(error.lines if isinstance(error, CombinedError) else (error.coded_text,)))
        return error.exit_code
    except KeyboardInterrupt as error:
        say_error(str(error) if isinstance(error, Interrupted) else "interrupted")
        return INTERRUPTED
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - nothing passes here, not even the panic of a Rust extension
        _complain(error, explain(error))
        return ExitCode.USAGE
    finally:
        abandon_full_streams()


def explain(error: BaseException) -> str:
    """Return one line about an error from outside InvarLock: what happened, and what to do."""
    if isinstance(error, ImportError):
        return _missing_package(error)
    if isinstance(error, OSError):
        return disk_refuses(error)
    if isinstance(error, UnicodeError):
        return f"a text or a name is not in the encoding that is used here ({error}); try it with LC_ALL=C.UTF-8"
    if isinstance(error, MemoryError):
        return "not enough memory; free some, or use a smaller file"
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read; check the files that you gave"
    return (
        f"unexpected {type(error).__name__}: {error}; this is a bug in InvarLock: please report it with the output of "
        f"{TRACEBACK_VARIABLE}=1"
    )


def _missing_package(error: ImportError) -> str:
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is not None and isinstance(error, ModuleNotFoundError):
        return f"this needs {package}, which is not installed; install it: pip install 'invarlock[{extra}]'"
    return f"a package cannot be imported ({error}); reinstall it: pip install --force-reinstall 'invarlock[suite]'"


def _complain(error: BaseException, *lines: str) -> None:
    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        say_error(*"".join(traceback.format_exception(error)).rstrip("\n").split("\n"))
    say_error(*(f"error: {line}" for line in lines))
