"""The progress bar below the lines of the cases, on a terminal only.

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
    """A bar of tqdm on the line that pytest's terminal reporter has open.

    Args:
        reporter: pytest's; everything is written through it.
        total_cost: of all cases, in any unit that is proportional to their time.
        width: returns the columns of the terminal.
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
        """Draw the bar with a text behind it."""
        self._bar.n = cost_done
        self._bar.ncols = max(1, self._width() - 1)
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()
        # the reporter begins a new line where another file is the current one
        self._reporter.currentfspath = "bar"
        self._is_drawn = True

    def clear(self) -> None:
        """Remove the bar unless something else was written on its line since."""
        if self._is_drawn and self._reporter.currentfspath == "bar":
            self._bar.clear()
            self._reporter.currentfspath = None
        self._is_drawn = False


class _Stream:
    """What tqdm writes to: pytest's reporter, which knows the terminal although standard output is captured."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def write(self, text: str) -> None:
        self._reporter.write_raw(text, flush=True)

    def flush(self) -> None:
        """Do nothing: each write is flushed."""
