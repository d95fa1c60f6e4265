"""The progress bar below the lines of the cases; shown only on a terminal.

Example::

    bar = CaseBar(reporter, total_cost=66_000, width=lambda: 120)
    bar.draw("12/66 cases, about 3 min left", cost_done=12_000)     # [###       ] 12/66 cases, about 3 min left
    bar.clear()                                             # before anything else is written
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tqdm import tqdm

CELLS = 20
FORMAT = f"[{{bar:{CELLS}}}] {{desc}}"


class CaseBar:
    """A tqdm bar on the current line of pytest's terminal reporter.

    Args:
        reporter: pytest's terminal reporter; everything is written through it.
        total_cost: the cost of all cases, in any unit that is proportional to their time.
        width: returns the number of columns of the terminal.
    """

    def __init__(self, reporter: pytest.TerminalReporter, total_cost: int, width: Callable[[], int]) -> None:
        self._reporter = reporter
        self._width = width
        # delay: tqdm draws nothing before the first call of draw
        self._bar = tqdm(
            total=total_cost,
            file=_Stream(reporter),
            bar_format=FORMAT,
            ascii=" #",
            leave=False,
            smoothing=0,
            delay=float("inf"),
        )
        self._is_drawn = False

    def draw(self, text: str, cost_done: int) -> None:
        """Draw the bar, followed by a text."""
        self._bar.n = cost_done
        self._bar.ncols = max(1, self._width() - 1)
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()
        # the reporter begins a new line when its current file changes
        self._reporter.currentfspath = "bar"
        self._is_drawn = True

    def clear(self) -> None:
        """Remove the bar unless something else was written on its line in the meantime."""
        if self._is_drawn and self._reporter.currentfspath == "bar":
            self._bar.clear()
            self._reporter.currentfspath = None
        self._is_drawn = False


class _Stream:
    """The stream that tqdm writes to: pytest's reporter, which reaches the terminal even if stdout is captured."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def write(self, text: str) -> None:
        self._reporter.write_raw(text, flush=True)

    def flush(self) -> None:
        """Do nothing, because each write is flushed."""
