"""A Python process that has already imported PyTorch and transformers, and forks a child for each pytest run.

Importing them takes longer than a case of a tiny model. ``python warm_python.py`` reads a JSON document a line from
standard input, runs ``python -m pytest`` with its arguments, and writes its exit status.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Third-party modules that a suite imports. Each child imports the product itself, because a suite can bring its own.
IMPORTED = (
    "accelerate",
    "filelock",
    "jsonschema",
    "jsonschema_rs",
    "nacl.signing",
    "numpy",
    "safetensors.torch",
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.mistral.modeling_mistral",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.tokenization_utils_tokenizers",
)
# Prefixes of variables that Python reads when it starts, or that these libraries read when they are imported.
READ_AT_IMPORT = (
    "CUBLAS", "CUDA", "HF_", "LANG", "LC_", "MKL_", "OMP_", "PYTHON", "PYTORCH_", "TOKENIZERS_", "TORCH",
    "TRANSFORMERS_",
)  # fmt: skip
THREADS = {"OMP_NUM_THREADS": "1"}


class WarmPython:
    """The process that has everything imported and waits for requests. It is started at its first use."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return whether a process with these variables would import the libraries in the same way as this one."""
        return _at_import(environment) == _at_import({**os.environ, **THREADS})

    def pytest(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path, seconds: float
    ) -> int:
        """Run pytest, and return its exit status, or minus the signal that ended it.

        Args:
            arguments: pytest's arguments.
            cwd: the working directory.
            environment: the complete environment.
            output: the file for standard output; standard error goes to the same path with the suffix ``.err``.
            seconds: the timeout.

        Raises:
            subprocess.TimeoutExpired: pytest exceeded the timeout and was killed.
        """
        if self._server is None or self._server.poll() is not None:
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **THREADS},
            )
        given, answers = _streams(self._server)
        wanted = {"arguments": list(arguments), "cwd": str(cwd), "environment": dict(environment)}
        given.write(json.dumps({**wanted, "output": str(output), "seconds": seconds}) + "\n")
        given.flush()
        answer = answers.readline()
        assert answer, f"{__file__} ended; start it from a shell to see why"
        status = json.loads(answer)
        if status is None:
            raise subprocess.TimeoutExpired(["pytest", *arguments], seconds, output.read_bytes())
        return int(status)

    def close(self) -> None:
        """End the waiting process."""
        if self._server is not None:
            with self._server as server:
                _streams(server)[0].close()
            self._server = None


def _at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


def _streams(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _serve() -> None:
    # ignore Ctrl-C, which is meant for the tests; the parent process ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in IMPORTED:
        importlib.import_module(name)
    # After gc.freeze(), garbage collection in the children neither traverses nor copies the imported objects.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if child == 0:
            _become_pytest(**wanted)
        print(json.dumps(_status(child, wanted["seconds"])), flush=True)


def _status(child: int, seconds: float) -> int | None:
    """Return a process's exit status, or None if it exceeded the timeout and was killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become_pytest(arguments: list[str], cwd: str, environment: dict[str, str], output: str, seconds: float) -> None:
    """Run ``python -m pytest`` in a folder in this process, and exit with its status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, path in ((1, output), (2, f"{output}.err")):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [sys.executable, *arguments]
    sys.path[0] = cwd
    status = int(importlib.import_module("pytest").main(arguments))
    # Exit without destroying all imported objects, which would take longer than many tests.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
