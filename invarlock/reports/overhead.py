"""What the guards cost: the time of a guarded evaluation against that of a bare one, by the report's own telemetry."""

from __future__ import annotations

from collections.abc import Mapping

# The stages without which there is no ratio, and those that are there for the guards alone. Probes are asked for by
# scenarios, and making a subject is no evaluation.
BARE = ("load_seconds", "score_seconds")
GUARDS = ("measure_weights_seconds", "measure_activations_seconds")


def overhead_ratio(telemetry: Mapping[str, float | None]) -> float | None:
    """Return guarded over bare seconds, 1 where guards took none; None where a stage was not run or not timed.

    It is a time, and so another each time.
    """
    bare, guards = ([telemetry.get(stage) for stage in stages] for stages in (BARE, GUARDS))
    spent = [value for value in bare if value is not None and value > 0]
    more = [value for value in guards if value is not None and value >= 0]
    if len(spent) < len(BARE) or len(more) < len(GUARDS):
        return None
    return (sum(spent) + sum(more)) / sum(spent)
