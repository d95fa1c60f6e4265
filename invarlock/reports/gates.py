"""The gates of a report: those of its metrics and guards, and the time budget of the guards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.guards import GUARDS
from invarlock.judgement.gate import Gate
from invarlock.metrics import METRICS
from invarlock.reports.overhead import overhead_ratio

# The only flag that depends on times; only the release profile has it.
OVERHEAD_FLAG = "guard_overhead_acceptable"


def judge_gates(blocks: Mapping[str, Any], policy: Mapping[str, Any]) -> list[Gate]:
    """Return the gates of a report in order; metrics and guards that were not evaluated have no gates.

    Args:
        blocks: the blocks of the metrics and of the guards, and ``telemetry``.
        policy: the resolved policy.
    """
    gates = [gate for metric in METRICS for gate in metric.gates(blocks[metric.name], policy[metric.name])]
    for guard in GUARDS:
        if blocks[guard.name]["status"] != "not_evaluated":
            gates += guard.gates(blocks[guard.name], policy.get(guard.name, {}))
    ratio = overhead_ratio(blocks["telemetry"]) if "overhead" in policy else None
    if ratio is not None:
        budget = policy["overhead"]["budget"]
        # a time is not a property of the subject, so this gate never blocks
        shown = f"{ratio:.4g} times the bare evaluation"
        gates.append(Gate(OVERHEAD_FLAG, shown, f"{budget:g}", ratio <= budget, blocks=False))
    return gates
