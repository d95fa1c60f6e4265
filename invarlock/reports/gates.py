"""The gates of a report: what was measured, the limit it is held to, and whether it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.metrics.perplexity import drift_is_acceptable, ratio_is_acceptable
from invarlock.reports.overhead import overhead_ratio

# The one flag that follows from times; it is in the release profile alone.
OVERHEAD_FLAG = "guard_overhead_acceptable"


@dataclass(frozen=True)
class Gate:
    """One gate; ``flag`` is its key under ``validation``, and a gate that does not block only warns."""

    flag: str
    measured: str
    limit: str
    holds: bool
    blocks: bool = True

    @property
    def line(self) -> str:
        return f"{self.flag}: {self.measured}, limit {self.limit}"


def judge_gates(blocks: Mapping[str, Any], policy: Mapping[str, Any]) -> list[Gate]:
    """Return the gates of a report in their order; what was not evaluated has none.

    Args:
        blocks: ``primary_metric``, ``primary_metric_tail``, the guards' blocks and ``telemetry``.
        policy: the resolved policy.
    """
    metric, tail = blocks["primary_metric"], blocks["primary_metric_tail"]
    limits = policy["primary_metric"]
    low, high = limits["drift_band"]
    gates = [
        Gate(
            "primary_metric_acceptable",
            _ratio(metric),
            f"{limits['ratio_limit']:g}",
            ratio_is_acceptable(metric, limits),
        ),
        Gate(
            "preview_final_drift_acceptable",
            _number(metric["drift"]),
            f"{low:g} to {high:g}",
            drift_is_acceptable(metric, limits),
        ),
    ]
    if tail["status"] != "not_evaluated":
        holds = tail["value"] is not None and tail["value"] <= tail["limit"]
        gates.append(
            Gate(
                "primary_metric_tail_acceptable",
                _number(tail["value"]),
                f"{tail['limit']:g}",
                holds,
                tail["mode"] == "fail",
            )
        )
    for guard, flag in (("invariants", "invariants_pass"), ("spectral", "spectral_stable"), ("rmt", "rmt_stable")):
        block = blocks[guard]
        if block["status"] != "not_evaluated":
            gates.append(Gate(flag, _guard(guard, block), _guard_limit(guard, block), block["passed"]))
    ratio = overhead_ratio(blocks["telemetry"]) if "overhead" in policy else None
    if ratio is not None:
        budget = policy["overhead"]["budget"]
        # a time says nothing of the subject, and decides nothing
        shown = f"{ratio:.4g} times the bare evaluation"
        gates.append(Gate(OVERHEAD_FLAG, shown, f"{budget:g}", ratio <= budget, blocks=False))
    return gates


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.6g}"


def _ratio(metric: Mapping[str, Any]) -> str:
    if metric["invalid"] or metric["ratio_vs_baseline"] is None:
        return f"no ratio ({metric['reason']})"
    return f"ratio {metric['ratio_vs_baseline']:.6g} [{_number(metric['ci'][0])}, {_number(metric['ci'][1])}]"


def _guard(guard: str, block: Mapping[str, Any]) -> str:
    if block["status"] == "error" or guard != "spectral":
        worst = [violation for violation in block["violations"] if violation["severity"] in ("error", "fail")]
        if not worst:
            return str(block["status"])
        first = worst[0]
        where = first.get("tensor", first.get("module"))
        more = f" and {len(worst) - 1} more" if len(worst) > 1 else ""
        return f"{block['status']}: {where}: {first['reason']}{more}"
    return f"{block['metrics']['caps_applied']} modules capped"


def _guard_limit(guard: str, block: Mapping[str, Any]) -> str:
    return f"{block['metrics']['max_caps']}" if guard == "spectral" else "no violation"
