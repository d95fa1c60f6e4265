"""The guards: one module a guard, which judges without PyTorch. What they measure is in ``invarlock.measuring``."""

from __future__ import annotations

from invarlock.guards.guard import Guard
from invarlock.guards.invariants import INVARIANTS
from invarlock.guards.rmt import RMT
from invarlock.guards.spectral import SPECTRAL
from invarlock.guards.variance import VARIANCE

# In the order in which they are judged and shown. A new guard is a module and a line here.
GUARDS: tuple[Guard, ...] = (
    INVARIANTS,
    SPECTRAL,
    RMT,
    VARIANCE,
)
GUARD_NAMES: tuple[str, ...] = tuple(guard.name for guard in GUARDS)
# The guards whose limits a sweep may go around.
LIMITED: tuple[str, ...] = tuple(guard.name for guard in GUARDS if guard.has_limits)
BY_NAME = {guard.name: guard for guard in GUARDS}
