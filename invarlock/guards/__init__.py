"""The guards: one module per guard, judging without PyTorch. Their measurements are in ``invarlock.measuring``."""

from __future__ import annotations

from invarlock.guards.guard import Guard
from invarlock.guards.invariants import INVARIANTS
from invarlock.guards.rmt import RMT
from invarlock.guards.spectral import SPECTRAL
from invarlock.guards.variance import VARIANCE

# In the order of judging and display. A new guard is one module and one line here.
GUARDS: tuple[Guard, ...] = (
    INVARIANTS,
    SPECTRAL,
    RMT,
    VARIANCE,
)
GUARD_NAMES: tuple[str, ...] = tuple(guard.name for guard in GUARDS)
# The guards whose limits a sweep may examine.
LIMITED: tuple[str, ...] = tuple(guard.name for guard in GUARDS if guard.has_limits)
BY_NAME = {guard.name: guard for guard in GUARDS}
