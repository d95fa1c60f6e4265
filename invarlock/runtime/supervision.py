"""Waiting for a container to end: Ctrl-C reaches it, and nothing of it stays."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from invarlock.errors import UsageError
from invarlock.runtime.engines import ANSWER_SECONDS, Engine

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Whoever asks a third time does not want to wait for a verdict.
PATIENCE = 2


def run_to_the_end(engine: Engine, name: str, command: Sequence[str]) -> int:
    """Run a container and return its exit code.

    A signal goes to the container once, by the engine; the third one ends it at once. Whatever ends this process's
    waiting, no container of the name is left.

    Raises:
        UsageError: when the engine cannot be started.
    """
    try:
        # a process group of its own: a terminal sends Ctrl-C to all of a group, and it would arrive twice
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        raise UsageError(f"{engine.program}: cannot be started ({error.strerror})") from None
    try:
        with _forwarding(engine, name, process):
            return process.wait()
    finally:
        _tell(engine, "rm", "--force", name)


@contextmanager
def _forwarding(engine: Engine, name: str, process: subprocess.Popen[bytes]) -> Iterator[None]:
    received = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received > PATIENCE:
            _tell(engine, "kill", name)
        else:
            process.send_signal(number)

    before: dict[signal.Signals, Any] = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(engine: Engine, *arguments: str) -> None:
    """Tell the engine to do something about a container that may be gone already."""
    command = [engine.program, *arguments]
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=ANSWER_SECONDS,
        check=False,
    )
