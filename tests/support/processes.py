"""Runs pytest and the product's commands for tests. No other test module starts them.

`packer` and `invarlock` run a command in the test process, which avoids the cost of a start. The other functions start
a process, for tests of the process itself (signals, closed streams, imports) and for suite runs that tests share.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import invarlock.packer.cli as packer_cli
from warm_python import WarmPython

import invarlock.cli as invarlock_cli

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]
# Longer than any process takes, even on a busy machine, where a process can take several times its usual duration.
SECONDS = 900
# Prefixes of variables that change the behaviour of the product or of pytest.
OURS = ("PACK_", "INVARLOCK_", "PYTEST_", "OUTPUT_DIR", "MIN_FREE", "GITHUB_STEP")
# These plugins write files and load slowly, and no test needs them in a child process.
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio")
# The packer as a user starts it, for tests whose shell or timing matters.
PACKER = (sys.executable, "-m", "invarlock.packer")
# InvarLock as a user starts it, for tests that interrupt it.
INVARLOCK = (sys.executable, "-m", "invarlock")
WARM = WarmPython()
# Few windows, so that a case takes a second, but enough for every scenario's expected verdict.
SMALL = {
    "INVARLOCK_PREVIEW_WINDOWS": "8",
    "INVARLOCK_FINAL_WINDOWS": "16",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
# Runs command lines one after another. The exit code of a line is 99 if a heavy package has been imported after it.
LIGHT = """
import contextlib, importlib, io, json, sys
main = importlib.import_module(sys.argv[1]).main
done = []
for line in json.load(sys.stdin):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(line)
        except SystemExit as stop:
            code = stop.code
    heavy = set(sys.argv[2:]) & sys.modules.keys()
    done.append([99 if heavy else int(code or 0), output.getvalue(), errors.getvalue()])
json.dump(done, sys.stdout)
"""


def clean(variables: Mapping[str, str] | None = None, without: Sequence[str] = ()) -> dict[str, str]:
    """Return this process's environment without settings for the product and pytest, with some variables added.

    Args:
        variables: variables to add.
        without: more prefixes of names to leave out.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, *without))}
    return {**kept, **(variables or {})}


def succeed(done: Done) -> Done:
    """Return a finished process after checking that its exit code is 0.

    Raises:
        AssertionError: the exit code is not 0; the message has the output.
    """
    assert done.returncode == 0, (
        f"{' '.join(map(str, done.args))} ended with {done.returncode}\n{done.stdout or ''}{done.stderr or ''}"
    )
    return done


def packer(*arguments: object, cwd: Path | None = None) -> Done:
    """Run the packer's command line in this process."""
    return _here(packer_cli.main, arguments, cwd)


def invarlock(*arguments: object, cwd: Path | None = None) -> Done:
    """Run InvarLock's command line in this process."""
    return _here(invarlock_cli.main, arguments, cwd)


def python(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    given: str | None = None,
    seconds: float = SECONDS,
) -> Done:
    """Run this Python in a new process.

    Args:
        arguments: Python's arguments.
        cwd: the working directory.
        env: the complete environment; by default that of this process.
        given: the standard input.
        seconds: the timeout.

    Raises:
        subprocess.TimeoutExpired: the process exceeded the timeout; the error has its output.
    """
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=env, input=given, capture_output=True, text=True, timeout=seconds, check=False
    )


def packer_process(*arguments: object, cwd: Path | None = None) -> Done:
    """Run the packer in a new process, as a user does."""
    return python(*PACKER[1:], *arguments, cwd=cwd)


def light(program: str, command_lines: Iterable[Sequence[object]]) -> list[Done]:
    """Run command lines one after another in a new process, to check what they import.

    Args:
        program: ``packer`` or ``invarlock``.
        command_lines: the arguments of each command line.

    Returns:
        list[Done]: the result of each. The exit code is 99 once PyTorch has been imported, or, with the packer, once
            pytest or an optional extra has been.
    """
    lines = [list(map(str, line)) for line in command_lines]
    packs = program == "packer"
    module = "invarlock.packer.cli" if packs else "invarlock.cli"
    heavy = ("torch", "transformers", *(("safetensors", "pytest", "cryptography", "rfc3161_client") if packs else ()))
    done = succeed(python("-c", LIGHT, module, *heavy, given=json.dumps(lines)))
    found = zip(lines, json.loads(done.stdout), strict=True)
    return [subprocess.CompletedProcess(line, code, output, errors) for line, (code, output, errors) in found]


def invarlock_process(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Done:
    """Run InvarLock in a new process, as a user does."""
    return python("-m", "invarlock", *arguments, cwd=cwd, env=env)


def run_pytest(
    *arguments: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, seconds: float = SECONDS
) -> Done:
    """Run pytest in a new process, without settings from this process's environment.

    Without xdist workers, it is forked from a process that has already imported PyTorch.

    Args:
        arguments: pytest's arguments.
        cwd: the working directory.
        env: variables to add or override.
        seconds: the timeout.

    Raises:
        subprocess.TimeoutExpired: pytest exceeded the timeout; the error has its output.
    """
    given, environment = [*QUICK, *map(str, arguments)], clean(env)
    if "-n" in given or "--collect-only" in given or not WARM.fits(environment):
        return python("-m", "pytest", *given, cwd=cwd, env=environment, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        status = WARM.pytest(given, cwd, environment, output, seconds)
        printed = [Path(f"{output}{suffix}").read_text("utf-8", "replace") for suffix in ("", ".err")]
    return subprocess.CompletedProcess(["pytest", *given], status, *printed)


def pytest_command(*arguments: object) -> list[str]:
    """Return the command line that runs pytest in a new process."""
    return [sys.executable, "-m", "pytest", *QUICK, *map(str, arguments)]


def start_pytest(
    *arguments: object,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    output: int = subprocess.PIPE,
    own_group: bool = False,
) -> subprocess.Popen[str]:
    """Start pytest in a new process and return without waiting for it.

    Args:
        arguments: pytest's arguments.
        cwd: the working directory.
        env: variables to add or override.
        without: more prefixes of variable names to leave out.
        output: where standard output and standard error go.
        own_group: whether it leads its own process group, to which a signal can be sent.
    """
    return subprocess.Popen(
        pytest_command(*arguments),
        cwd=cwd,
        env=clean(env, without),
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=own_group,
    )


def finish(process: subprocess.Popen[str], seconds: float = SECONDS) -> Done:
    """Wait for a started process and return it with its output; kill it after the timeout."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _here(main: Callable[[list[str]], int], arguments: Sequence[object], cwd: Path | None) -> Done:
    given, output, errors = list(map(str, arguments)), io.StringIO(), io.StringIO()
    folder: Any = contextlib.chdir(cwd) if cwd is not None else contextlib.nullcontext()
    with folder, contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(given)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return subprocess.CompletedProcess(given, code, output.getvalue(), errors.getvalue())
