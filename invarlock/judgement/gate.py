"""A gate of a report, and the gate shared by most guards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The severities of violations, gravest first. A cap counts against a limit; a warning never fails a gate.
SEVERITIES = ("error", "fail", "cap", "warn")


@dataclass(frozen=True)
class Gate:
    """A gate; ``flag`` is its key under ``validation``; a gate that does not block only warns."""

    flag: str
    measured: str
    limit: str
    holds: bool
    blocks: bool = True

    @property
    def line(self) -> str:
        """Return the gate as one line: its name, the measured value and the limit."""
        return f"{self.flag}: {self.measured}, limit {self.limit}"


def number_or_words(value: float | None) -> str:
    """Return a number with four significant digits, or words for None."""
    return "no value" if value is None else f"{value:.4g}"


def worst_violation(block: Mapping[str, Any]) -> str:
    """Return the status of a guard, with its gravest violation if it has any."""
    return f"{block['status']}: {gravest(block)}" if block["violations"] else str(block["status"])


def gravest(block: Mapping[str, Any]) -> str:
    """Return the place and reason of a guard's gravest violation, and the number of the others.

    A violation of the whole checkpoint, whose place is ``*``, has only its reason.
    """
    rank = {severity: number for number, severity in enumerate(SEVERITIES)}
    # a page can be made of any report; a severity of another version counts as gravest
    first, *more = sorted(block["violations"], key=lambda violation: rank.get(violation["severity"], -1))
    where = first.get("tensor", first.get("module"))
    shown = first["reason"] if where in ("*", first["reason"]) else f"{where}: {first['reason']}"
    others = "1 more violation" if len(more) == 1 else f"{len(more)} more violations"
    return shown + (f" (and {others})" if more else "")
