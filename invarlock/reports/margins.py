"""The share of each limit that a report uses: 0 for nothing, 1 at the limit, None if it could not be measured.

Example::

    used = limits_used(report)
    used["primary_metric.ratio_limit"]      # 0.2: the upper end is 1.02, the limit 1.1
    used["rmt.epsilon"]                     # 0.3: the family that moved most uses 30 % of its limit

A gate may pass only narrowly and fail on other windows. The share of the limit shows how close it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from invarlock.guards import GUARDS
from invarlock.judgement.slices import limits_of
from invarlock.metrics import METRICS

# The guards whose limits are not gates, so that exceeding one only signals.
_WITHOUT_GATE = frozenset(guard.name for guard in GUARDS if not guard.flags)


def limits_used(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the used share of each limit, by the limit's name in the policy; guards that did not run are left out.

    Args:
        report: the report with its derived blocks and ``resolved_policy``.
    """
    policy = report["resolved_policy"]
    used: dict[str, float | None] = {}
    for metric in METRICS:
        used |= metric.limits_used(report[metric.name], policy[metric.name])
    for guard in GUARDS:
        if report[guard.name]["status"] != "not_evaluated":
            used |= guard.limits_used(report[guard.name], policy.get(guard.name, {}))
    return used


def deciding_slice(report: Mapping[str, Any], limit: str) -> str | None:
    """Return the slice that uses most of a limit; None if the whole text uses as much, or there are no slices.

    Args:
        report: the report with its derived blocks and ``resolved_policy``.
        limit: the limit's name in the policy, such as ``fidelity.kl_limit``.
    """
    metric = next((metric for metric in METRICS if metric.name == limit.partition(".")[0]), None)
    if metric is None:
        return None
    block, policy = report[metric.name], report["resolved_policy"][metric.name]

    def used(row: Mapping[str, Any], limits: Mapping[str, Any]) -> float:
        share = metric.limits_used({**block, **row, "slices": {}}, limits).get(limit)
        return math.inf if share is None else share

    found = {name: used(row, limits_of(policy, name)) for name, row in block.get("slices", {}).items()}
    name = max(found, key=lambda name: found[name], default=None)
    return name if name is not None and found[name] > used({}, policy) else None


def tightest(used: Mapping[str, float | None]) -> tuple[str, float | None]:
    """Return the gate limit with the largest used share, and that share; None if one was not measured."""
    gates = {name: share for name, share in used.items() if name.partition(".")[0] not in _WITHOUT_GATE}
    name = max(gates, key=lambda name: math.inf if gates[name] is None else gates[name] or 0.0)
    return name, gates[name]
