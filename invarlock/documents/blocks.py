"""What the blocks of several guards have in common."""

from __future__ import annotations

from typing import TypedDict


class Violation(TypedDict):
    """What a guard found wrong with a module; ``*`` is the whole checkpoint."""

    module: str
    severity: str
    reason: str
