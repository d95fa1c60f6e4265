"""Pytest and the product's commands, as tests run them: this module alone starts them.

`packer` and `invarlock` run a command in the process of the tests, which costs no start. The others start a process:
where the process itself is tested (signals, closed streams, what is imported), or where tests share one run of a suite.
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
# No process takes as long; a machine that is busy with something else needs several times a process's own time.
SECONDS = 900
# Variables that would change what the product or pytest does.
OURS = ("PACK_", "INVARLOCK_", "PYTEST_", "OUTPUT_DIR", "MIN_FREE", "GITHUB_STEP")
# The plugins write files and load slowly, and no test needs them in a process.
QUICK = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio")
# The packer as a user starts it, for tests whose shell or timing matters.
PACKER = (sys.executable, "-m", "invarlock.packer")
# InvarLock as a user starts it, for tests that interrupt it.
INVARLOCK = (sys.executable, "-m", "invarlock")
WARM = WarmPython()
# Few windows, enough for every expectation: a case takes a second.
SMALL = {
    "INVARLOCK_PREVIEW_WINDOWS": "8",
    "INVARLOCK_FINAL_WINDOWS": "16",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
# Runs command lines one after another; 99 stands for the code of one after which something heavy is imported.
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
    """Return this process's environment without settings of the product and of pytest, with some variables added.

    Args:
        variables: to add.
        without: more beginnings of names to leave out.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, *without))}
    return {**kept, **(variables or {})}


def succeed(done: Done) -> Done:
    """Return a process that ended with 0.

    Raises:
        AssertionError: with what the process printed, when it ended otherwise.
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
    """Run this Python in a process of its own.

    Args:
        arguments: of Python.
        cwd: folder to start it in.
        env: all of its variables; by default those of this process.
        given: its standard input.
        seconds: it may take at most.

    Raises:
        subprocess.TimeoutExpired: with what it printed, when it takes longer.
    """
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=env, input=given, capture_output=True, text=True, timeout=seconds, check=False
    )


def packer_process(*arguments: object, cwd: Path | None = None) -> Done:
    """Run the packer in a process of its own, as a user does."""
    return python(*PACKER[1:], *arguments, cwd=cwd)


def light(program: str, command_lines: Iterable[Sequence[object]]) -> list[Done]:
    """Run command lines one after another in a process that no test has imported anything into.

    Args:
        program: ``packer`` or ``invarlock``.
        command_lines: arguments of each.

    Returns:
        list[Done]: what each ended with; the code is 99 once PyTorch, or by the packer pytest or an optional extra, is
            imported.
    """
    lines = [list(map(str, line)) for line in command_lines]
    packs = program == "packer"
    module = "invarlock.packer.cli" if packs else "invarlock.cli"
    heavy = ("torch", "transformers", *(("safetensors", "pytest", "cryptography", "rfc3161_client") if packs else ()))
    done = succeed(python("-c", LIGHT, module, *heavy, given=json.dumps(lines)))
    found = zip(lines, json.loads(done.stdout), strict=True)
    return [subprocess.CompletedProcess(line, code, output, errors) for line, (code, output, errors) in found]


def invarlock_process(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Done:
    """Run InvarLock in a process of its own, as a user does."""
    return python("-m", "invarlock", *arguments, cwd=cwd, env=env)


def run_pytest(
    *arguments: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None, seconds: float = SECONDS
) -> Done:
    """Run pytest in a process of its own, without settings from this process's environment.

    Where it has no workers, which are processes of their own, it is forked from one that has imported PyTorch.

    Args:
        arguments: of pytest.
        cwd: folder to start it in.
        env: variables to add, or to give another value.
        seconds: it may take at most.

    Raises:
        subprocess.TimeoutExpired: with what it printed, when it takes longer.
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
    """Return the command line of a pytest of its own."""
    return [sys.executable, "-m", "pytest", *QUICK, *map(str, arguments)]


def start_pytest(
    *arguments: object,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    output: int = subprocess.PIPE,
    own_group: bool = False,
) -> subprocess.Popen[str]:
    """Start pytest in a process of its own, and leave the waiting to the caller.

    Args:
        arguments: of pytest.
        cwd: folder to start it in.
        env: variables to add, or to give another value.
        without: more beginnings of names of variables to leave out.
        output: of both of its streams.
        own_group: whether it leads a process group, which a signal can be sent to.
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
    """Return a started process when it has ended, and what it printed; one that takes longer is killed."""
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
