"""A progress line on the terminal while a large pack is verified."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

# Packs that verify faster than this show no progress line.
PATIENCE_SECONDS = 1.0
REDRAW_SECONDS = 0.1
BAR_CHARACTERS = 30


class ProgressLine:
    """A line that appears after a second of work and clears itself at the end; written only to a terminal."""

    def __init__(self, stream: TextIO, label: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._stream = stream
        self._label = label
        self._total = self._done = 0
        self._next = time.monotonic() + patience_seconds
        self._drawn = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def start(self, total_bytes: int) -> ProgressLine:
        """Set the total amount of work."""
        self._total = max(total_bytes, 1)
        return self

    def __call__(self, count: int) -> None:
        """Add bytes to the amount done."""
        self._done += count
        now = time.monotonic()
        if now < self._next or not self._stream.isatty():
            return
        self._next = now + REDRAW_SECONDS
        self._drawn = True
        share = min(self._done / self._total, 1.0)
        bar = ("#" * round(share * BAR_CHARACTERS)).ljust(BAR_CHARACTERS, ".")
        self._stream.write(f"\r{self._label} [{bar}] {share:4.0%} of {self._total / 1e6:.0f} MB\x1b[K")
        self._stream.flush()
