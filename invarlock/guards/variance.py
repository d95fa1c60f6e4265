"""The variance guard's judgement: whether undoing a scale change of FFN outputs would reduce the loss.

The guard only signals that scales could help; it is never a gate. A subject with proposed scales is therefore scored
again on a few windows only: 16 of them gave the same warnings as all 64 (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from invarlock.guards.guard import Guard, NullPart, Probe
from invarlock.judgement.context import Context
from invarlock.judgement.expectations import comparable
from invarlock.judgement.learning import LearnedLimit, NullChange
from invarlock.judgement.shares import Shares, largest_share, share_of
from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import counted, data_table, most_changed, number_cell, number_text
from invarlock.statistics.rounding import rounded

# Half a percent of perplexity, in nats per token. Formats that shrink weights, such as MXFP4, and fine-tunes cost less
# (docs/statistics.md). A gain that is significant but smaller passes the predictive gate without a warning.
LEAST_WARNED_GAIN = 0.005
# The final windows of the first slice on which a subject is scored with the proposed scales, and those of the probe.
SCALED_WINDOWS = 16
SCALED_PROBE_WINDOWS = 64
Block = Mapping[str, Any]
Modules = Mapping[str, Block]


def propose_scales(before: Modules, after: Modules, policy: Mapping[str, Any]) -> dict[str, float]:
    """Return the scales that would bring FFN outputs back to the baseline's root mean square.

    Each scale is the clamped ratio baseline / subject. Scales within the deadband are dropped; of the others, only the
    largest changes are kept.

    Args:
        before: ``rms`` by module for the baseline.
        after: ``rms`` by module for the subject.
        policy: the ``variance`` limits.
    """
    low, high = policy["scale_limits"]
    scales = {}
    for name in sorted(before):
        ratio = _ratio(before[name]["rms"], after.get(name, {}).get("rms"))
        if ratio is None:
            continue
        scale = min(max(ratio, low), high)
        if abs(scale - 1.0) > policy["deadband"]:
            scales[name] = float(f"{scale:.9g}")
    kept = sorted(scales, key=lambda name: (-abs(scales[name] - 1.0), name))[: policy["max_adjusted_modules"]]
    return {name: scales[name] for name in sorted(kept)}


def derive_variance(
    raw: Mapping[str, Any], policy: Mapping[str, Any], windows: Mapping[str, Any], bootstrap: Mapping[str, Any]
) -> dict[str, Any]:
    """Return status, proposed scales, their gain and the predictive gate.

    Let A be the subject's loss and B its loss with the scales applied, both on the first ``SCALED_WINDOWS`` final
    windows of the first slice. Scales are worth applying if the mean of B - A and the upper end of its interval are at
    most -min_effect. A one-sided interval puts all of alpha at this end. The guard warns if that end is also at least
    half a percent below zero.

    Args:
        raw: ``baseline`` and ``subject``, each with ``modules`` (by name: rms); ``subject`` with ``scaled_logloss``.
        policy: the ``variance`` limits.
        windows: ``evaluation_windows.final`` of the report.
        bootstrap: ``replicates``, ``alpha`` and ``seed`` of the interval.
    """
    return _derived(raw, policy, _first(windows, SCALED_WINDOWS), bootstrap, LEAST_WARNED_GAIN)


def _derived(
    raw: Mapping[str, Any],
    policy: Mapping[str, Any],
    windows: Mapping[str, Any],
    bootstrap: Mapping[str, Any],
    least_warned: float,
) -> dict[str, Any]:
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    unmeasured = sorted(name for name in before if after.get(name, {}).get("rms") is None)
    scales = propose_scales(before, after, policy)
    gate = _predictive_gate(scales, raw["subject"]["scaled_logloss"], policy, windows, bootstrap)
    if unmeasured:
        status = "error"
        reasons = [f"{name}: its output could not be measured, or is not finite" for name in unmeasured[:3]]
    else:
        worth_a_warning = gate["passed"] and -gate["delta_ci"][1] >= least_warned
        status = "warn" if worth_a_warning else "pass"
        reasons = [f"scaling {', '.join(scales)} would lower the loss"] if worth_a_warning else []
    return {
        "status": status,
        "passed": status != "error",
        "metrics": {"modules": len(before), "proposed": len(scales)},
        "modules": {name: {"ratio": _ratio(before[name]["rms"], after.get(name, {}).get("rms"))} for name in before},
        "proposed_scales": scales,
        "ab_gain": None if gate["mean_delta"] is None else rounded(-gate["mean_delta"]),
        "predictive_gate": gate,
        "violations": [
            {"module": reason.partition(":")[0], "severity": status, "reason": reason.partition(": ")[2] or reason}
            for reason in reasons
        ],
    }


def derive_ve_probe(
    raw: Mapping[str, Any], policy: Mapping[str, Any], windows: Mapping[str, Any], bootstrap: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the probe's result: the guard's numbers over more windows, and whether it would intervene."""
    block = _derived(raw, policy, _first(windows, SCALED_PROBE_WINDOWS), bootstrap, 0.0)
    kept = ("modules", "proposed_scales", "ab_gain", "predictive_gate", "violations")
    return {"detected": block["predictive_gate"]["passed"], **{key: block[key] for key in kept}}


def _first(windows: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return the losses and token counts of the first windows of the first slice, ``most`` at most."""
    slices = windows.get("slices")
    count = min(most, slices.count(slices[0]) if slices else most)
    return {key: windows[key][:count] for key in ("logloss", "token_counts")}


def _ratio(before: float | None, after: float | None) -> float | None:
    return rounded(before / after) if before is not None and after else None


def _predictive_gate(
    scales: Mapping[str, float],
    scaled: Sequence[float | None] | None,
    policy: Mapping[str, Any],
    windows: Mapping[str, Any],
    bootstrap: Mapping[str, Any],
) -> dict[str, Any]:
    # imported here because NumPy takes 80 ms, and reading the names of guards does not need it
    from invarlock.statistics.intervals import bca_interval, weighted_mean

    gate: dict[str, Any] = {"evaluated": False, "passed": False, "reason": "", "mean_delta": None, "delta_ci": None}
    if (scaled is None) != (not scales):
        raise ValueError(f"scaled_logloss: {'no' if scaled is None else 'unasked'} losses for {len(scales)} scales")
    if scaled is None:
        return {**gate, "reason": "no scale is proposed"}
    if len(scaled) != len(windows["logloss"]):
        raise ValueError(f"scaled_logloss: {len(scaled)} losses, but {len(windows['logloss'])} windows")
    pairs = list(zip(scaled, windows["logloss"], strict=True))
    deltas = [after - before for after, before in pairs if after is not None and before is not None]
    if len(deltas) < len(pairs):
        return {**gate, "reason": "a loss is not finite"}
    alpha = bootstrap["alpha"] if policy["sides"] == "two" else 2 * bootstrap["alpha"]
    interval = bca_interval(
        deltas, windows["token_counts"], replicates=bootstrap["replicates"], alpha=alpha, seed=bootstrap["seed"]
    )
    mean = rounded(weighted_mean(deltas, windows["token_counts"]))
    low, high = rounded(interval.low), rounded(interval.high)
    assert mean is not None
    assert high is not None
    passed = mean < 0 and mean <= -policy["min_effect"] and high <= -policy["min_effect"]
    reason = "the loss falls" if passed else "the loss does not fall significantly"
    return {"evaluated": True, "passed": passed, "reason": reason, "mean_delta": mean, "delta_ci": [low, high]}


def _judge(raw: Block, limits: Block, context: Context) -> dict[str, Any]:
    return derive_variance(comparable(raw, context.edit), limits, context.windows["final"], context.bootstrap)


def _judge_probe(raw: Block, limits: Block, context: Context) -> dict[str, Any]:
    return derive_ve_probe(raw, limits, context.windows["final"], context.bootstrap)


def _limits_used(block: Block, limits: Block) -> Shares:
    """Return the used shares of ``deadband``, by the FFN output that moved most, and of ``min_effect``, by the gain."""
    if block["status"] == "error":
        return {"variance.deadband": None}
    # an output that vanished has no ratio
    moved = [None if row["ratio"] is None else abs(row["ratio"] - 1) for row in block["modules"].values()]
    used = {"variance.deadband": largest_share(share_of(one, limits["deadband"]) for one in moved)}
    gain, least = block["ab_gain"], limits["min_effect"]
    if gain is not None and least > 0:
        used["variance.min_effect"] = share_of(gain, least)
    return used


def _page_section(block: Mapping[str, Any]) -> Iterator[Markup]:
    gate, scales = block["predictive_gate"], block["proposed_scales"]
    yield element(
        "p",
        f"{counted(len(scales), 'scale')} proposed"
        + (f"; {gate['reason']}" if scales else "")
        + (f"; gain {number_text(block['ab_gain'])} nats a token" if block["ab_gain"] is not None else ""),
    )
    distance = {module: scale - 1.0 for module, scale in scales.items()}
    if scales:
        yield data_table(
            ("FFN output", "scale"),
            [(element("code", module), number_cell(scales[module])) for module in most_changed(distance)],
        )


def _min_effect(changes: Sequence[Sequence[float]], policy: Block, windows: int) -> dict[str, Any]:
    """Return z * sigma / sqrt(n), where sigma is the deviation of loss differences within a change.

    n is the number of windows that are scored with scales: ``windows``, or ``SCALED_WINDOWS`` if there are more.
    """
    windows = min(windows, SCALED_WINDOWS)
    spreads = [_spread(deltas) for deltas in changes]
    sigma = math.sqrt(math.fsum(spreads) / len(spreads))
    alpha = policy["primary_metric"]["alpha"]
    z = NormalDist().inv_cdf(1 - (alpha / 2 if policy["variance"]["sides"] == "two" else alpha))
    return {
        "n": sum(len(deltas) for deltas in changes),
        "sigma": rounded(sigma),
        "z": rounded(z),
        "windows": windows,
        "limit": rounded(z * sigma / math.sqrt(windows)),
    }


def _spread(values: Sequence[float]) -> float:
    """Return the sample variance of values, 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _deltas(change: NullChange, policy: Block) -> list[float]:
    return change.deltas


VARIANCE = Guard(
    name="variance",
    judge=_judge,
    page_section=_page_section,
    limits_used=_limits_used,
    probe=Probe("ve_probe", _judge_probe),
    null=NullPart(lambda change: change.pair("variance"), needs_modules=False),
    learned=(
        LearnedLimit(
            block="variance",
            limit="variance.min_effect",
            statistics=_deltas,
            derive=_min_effect,
            value=lambda block: block["limit"],
        ),
    ),
)
