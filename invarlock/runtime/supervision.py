"""Waits for a container to end: forwards Ctrl-C, and always removes the container."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from invarlock.errors import UsageError
from invarlock.output import say_error
from invarlock.problems import Code
from invarlock.runtime.engines import ANSWER_SECONDS, Engine

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The third Ctrl-C kills the container without waiting for a verdict.
SIGNALS_BEFORE_KILL = 2


def run_to_the_end(engine: Engine, name: str, command: Sequence[str]) -> int:
    """Run a container and return its exit code.

    A signal is forwarded to the container through the engine; the third signal kills the container. The container is
    removed however the wait ends.

    Raises:
        UsageError: when the engine cannot be started.
    """
    try:
        # its own process group: a terminal sends Ctrl-C to the whole group, so it would arrive twice
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        raise UsageError(
            f"{engine.program}: cannot be started ({error.strerror})", code=Code.CONTAINER_UNAVAILABLE
        ) from None
    try:
        with _forwarding(engine, name, process):
            return process.wait()
    finally:
        _control(engine, "rm", "--force", name)


@contextmanager
def _forwarding(engine: Engine, name: str, process: subprocess.Popen[bytes]) -> Iterator[None]:
    received = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received > SIGNALS_BEFORE_KILL:
            _control(engine, "kill", name)
        else:
            process.send_signal(number)

    before: dict[signal.Signals, Any] = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _control(engine: Engine, *arguments: str) -> None:
    """Run an engine command for a container that may already be gone."""
    command = [engine.program, *arguments]
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        say_error(f"{engine.program} does not answer; when it does again, run: {' '.join(command)}")
