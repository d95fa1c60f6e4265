"""The overhead of the guards: the time of an evaluation with guards relative to one without, from the telemetry."""

from __future__ import annotations

from collections.abc import Mapping

# The stages required for a ratio, and the stages that exist only for guards. Probes are not counted because scenarios
# require them, and making a subject is not part of an evaluation.
BARE = ("load_seconds", "score_seconds")
GUARDS = ("measure_weights_seconds", "measure_activations_seconds")


def overhead_ratio(telemetry: Mapping[str, float | None]) -> float | None:
    """Return the seconds with guards divided by those without: 1 if guards took no time, None if a stage is missing.

    The ratio depends on times, so it differs between runs.
    """
    bare, guards = ([telemetry.get(stage) for stage in stages] for stages in (BARE, GUARDS))
    spent = [value for value in bare if value is not None and value > 0]
    more = [value for value in guards if value is not None and value >= 0]
    if len(spent) < len(BARE) or len(more) < len(GUARDS):
        return None
    return (sum(spent) + sum(more)) / sum(spent)
