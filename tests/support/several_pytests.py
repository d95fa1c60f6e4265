"""Run several pytest command lines in one process, because starting a process takes longer than the command line.

Reads a JSON list of [arguments, variables] from standard input, and writes a JSON list of [exit status, output].
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import clean, python, succeed

QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")

CommandLine = tuple[Sequence[str], Mapping[str, str]]


def run_several(command_lines: Sequence[CommandLine], folder: Path) -> list[tuple[int, str]]:
    """Run pytest in a folder once for each pair of arguments and variables; return the exit statuses and outputs.

    The environment has no other settings. The command lines must end before a case runs.
    """
    environment = clean({"OMP_NUM_THREADS": "1"})
    done = succeed(python(__file__, cwd=folder, env=environment, given=json.dumps(command_lines)))
    return [(status, output) for status, output in json.loads(done.stdout)]


def run_one(arguments: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        status = pytest.main([*arguments, *QUICK])
    return int(status), output.getvalue()


if __name__ == "__main__":
    given: list[Any] = json.load(sys.stdin)
    json.dump([run_one(arguments, variables) for arguments, variables in given], sys.stdout)
