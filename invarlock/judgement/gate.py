"""A gate of a report, and the gate shared by most guards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    """Return a number with six significant digits, or words for None."""
    return "not a number" if value is None else f"{value:.6g}"


def worst_violation(block: Mapping[str, Any]) -> str:
    """Return the first failing violation of a guard and the number of others, or its status without one."""
    worst = [violation for violation in block["violations"] if violation["severity"] in ("error", "fail")]
    if not worst:
        return str(block["status"])
    first = worst[0]
    where = first.get("tensor", first.get("module"))
    more = f" and {len(worst) - 1} more" if len(worst) > 1 else ""
    return f"{block['status']}: {where}: {first['reason']}{more}"
