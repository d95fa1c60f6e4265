"""How much of each limit a report uses: 0 for nothing, 1 at the limit, None where it could not be measured.

Example::

    used = limits_used(report)
    used["primary_metric.ratio_limit"]      # 0.2: the upper end is 1.02, the limit 1.1
    used["rmt.epsilon"]                     # 0.3: the family that grew most uses 30 % of what it may

A gate that holds may hold by a hair, with other windows it would not. What a report uses says how near it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]

# The limits of the guard `variance` are no gates: it proposes scales, and says what they would gain.
SIGNALS = ("variance.deadband", "variance.min_effect")


def limits_used(report: Block) -> dict[str, float | None]:
    """Return how much of each limit a report uses, by the limit's name in the policy; guards not run have none.

    Args:
        report: with its derived blocks and ``resolved_policy``.
    """
    policy = report["resolved_policy"]
    used = _metric(report["primary_metric"], policy["primary_metric"])
    tail = report["primary_metric_tail"]
    if tail["status"] != "not_evaluated":
        used["primary_metric_tail.limit"] = _share(tail["value"], tail["limit"])
    measures: Mapping[str, Callable[[Block, Block], dict[str, float | None]]] = {
        "spectral": _spectral,
        "rmt": _rmt,
        "variance": _variance,
    }
    for guard, measure in measures.items():
        if report[guard]["status"] != "not_evaluated":
            used |= measure(report[guard], policy[guard])
    return used


def tightest(used: Mapping[str, float | None]) -> tuple[str, float | None]:
    """Return the limit of a gate that is used most, and how much; None where one was not measured."""
    gates = {name: share for name, share in used.items() if name not in SIGNALS}
    name = max(gates, key=lambda name: math.inf if gates[name] is None else gates[name] or 0.0)
    return name, gates[name]


def _metric(metric: Block, limits: Block) -> dict[str, float | None]:
    upper = None if metric["ci"] is None else metric["ci"][1]
    low, high = limits["drift_band"]
    drift = metric["drift"]
    edge = high if drift is not None and drift > 1 else low
    return {
        "primary_metric.ratio_limit": None if upper is None else _share(upper - 1, limits["ratio_limit"] - 1),
        "primary_metric.drift_band": None if drift is None else _share((drift - 1) / (edge - 1), 1.0),
    }


def _spectral(block: Block, limits: Block) -> dict[str, float | None]:
    if block["status"] == "error":
        return {"spectral.max_caps": None}
    rows, metrics = block["modules"].values(), block["metrics"]
    used = {
        "spectral.deadband_ratio": _largest(
            _share(_size(row["log_ratio"]), math.log(limits["deadband_ratio"])) for row in rows
        ),
        "spectral.max_caps": _share(metrics["caps_applied"], limits["max_caps"]),
    }
    for limit, key in (("stable_rank_fall", "log_stable_rank_ratio"), ("norm_fall", "log_norm_ratio")):
        warn = math.log(limits[limit]["warn"])
        used[f"spectral.{limit}"] = _largest(_share((row[key] or 0.0) / warn, 1.0) for row in rows)
    for limit in ("coherent_share", "flipped_share", "edge_risk"):
        found = metrics[f"max_{'coherent' if limit == 'coherent_share' else limit.removesuffix('_share')}"]
        # noise alone has an edge risk of about 1
        base = 1.0 if limit == "edge_risk" else 0.0
        allowed = limits["change"][limit] - base
        used[f"spectral.change.{limit}"] = _share((base if found is None else found) - base, allowed)
    return used


def _rmt(block: Block, limits: Block) -> dict[str, float | None]:
    broken = [row for row in block["violations"] if row["severity"] in ("error", "fail")]
    if any(not row["module"].startswith("family ") for row in broken):
        return {"rmt.epsilon": None}
    families = [row for row in block["families"].values() if row["growth"] is not None]
    return {
        "rmt.epsilon": _largest(_share(row["growth"], row["epsilon"]) for row in families),
        "rmt.max_fall": _largest(_share(-row["growth"], limits["max_fall"]) for row in families),
    }


def _variance(block: Block, limits: Block) -> dict[str, float | None]:
    """A scale of an FFN's output beyond the deadband is proposed, what it gains is held against the least effect."""
    if block["status"] == "error":
        return {"variance.deadband": None}
    ratios = [row["ratio"] for row in block["modules"].values()]
    used = {"variance.deadband": _largest(_share(_size(ratio - 1), limits["deadband"]) for ratio in ratios)}
    gain, least = block["ab_gain"], limits["min_effect"]
    if gain is not None and least > 0:
        used["variance.min_effect"] = _share(gain, least)
    return used


def _size(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _share(value: float | None, allowed: float) -> float | None:
    """Return value / allowed, 0 for what goes the other way; None for what is not finite, or where nothing may be."""
    if value is None or not math.isfinite(value):
        return None
    if value <= 0:
        return 0.0
    return rounded(value / allowed) if allowed > 0 else None


def _largest(shares: Iterable[float | None]) -> float | None:
    """Return the largest share, 0 of none; None where one was not measured."""
    known: list[float] = []
    for share in shares:
        if share is None:
            return None
        known.append(share)
    return max(known, default=0.0)
