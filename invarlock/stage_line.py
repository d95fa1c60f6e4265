"""One line about the current stage: redrawn on a terminal, and printed now and then in a CI log.

Example::

    with StageLine(sys.stderr) as line, listening(line):
        ...     # baseline mistral-tiny · weights 41/272 · about 3 min left
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from invarlock.errors import printable
from invarlock.moments import utc_now
from invarlock.stages import StageEvent

REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 15.0
# Work must have run this long before its remaining time is estimated.
ESTIMATE_SECONDS = 1.0


class StageLine:
    """Shows the progress of the work on a stream, and removes its line at the end.

    Args:
        stream: the stream, usually standard error.
        clock: returns the time in seconds; replaced in tests.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_live = stream.isatty() and not os.environ.get("CI")
        self._step: tuple[tuple[str, ...], str] = ((), "")
        self._stages: tuple[str, ...] = ()
        self._began = clock()
        self._next = 0.0
        self._is_drawn = False

    def __enter__(self) -> StageLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()

    def __call__(self, event: StageEvent) -> None:
        """Show an event, unless another one was shown a moment ago."""
        now = self._clock()
        if (event.stages, event.what) != self._step:
            self._step, self._began = (event.stages, event.what), now
        is_new = self._is_live and event.stages != self._stages
        if now < self._next and not is_new:
            return
        self._stages = event.stages
        self._next = now + (REDRAW_SECONDS if self._is_live else PLAIN_SECONDS)
        self._write(f"{event}{self._left(event, now)}")

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self._is_drawn:
            self._put("\r\x1b[K")
            self._is_drawn = False

    def _left(self, event: StageEvent, now: float) -> str:
        spent = now - self._began
        if not event.done or spent < ESTIMATE_SECONDS:
            return ""
        return f" · {left_text(spent / event.done * (event.total - event.done))}"

    def _write(self, text: str) -> None:
        text = printable(text)
        if not self._is_live:
            self._put(text + "\n")
            return
        width = max(20, shutil.get_terminal_size().columns - 1)
        self._put(f"\r{text if len(text) <= width else text[: width - 1] + '…'}\x1b[K")
        self._is_drawn = True

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # a closed terminal must not stop an evaluation
            self._is_live = False


class StageLog:
    """Appends each stage to a log file when it begins, with the time in UTC."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stages: tuple[str, ...] | None = None

    def __call__(self, event: StageEvent) -> None:
        """Write an event if its stage is new."""
        if event.stages == self._stages:
            return
        self._stages = event.stages
        # a full disk must not stop an evaluation before its report
        with suppress(OSError), self._path.open("a", encoding="utf-8") as stream:
            stream.write(f"{utc_now()} {printable(str(event))}\n")


def left_text(seconds: float) -> str:
    """Return the remaining time as text, such as ``about 3 min left``."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    if seconds < 5400:
        return f"about {math.ceil(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"
