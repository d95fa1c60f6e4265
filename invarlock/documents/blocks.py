"""Types shared by the blocks of several guards."""

from __future__ import annotations

from typing import TypedDict


class Violation(TypedDict):
    """A guard's finding about a module; ``*`` is the whole checkpoint."""

    module: str
    severity: str
    reason: str
