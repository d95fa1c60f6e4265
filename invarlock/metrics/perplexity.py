"""The primary metric: perplexity of subject against baseline on the same windows, and its gates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from invarlock.statistics.intervals import bca_interval, exponential, quantile, weighted_mean
from invarlock.statistics.rounding import rounded


def window_statistics(windows: Mapping[str, Any], asked: Mapping[str, int]) -> dict[str, Any]:
    """Return how well the windows of both sides pair: counts, and the fractions scored and shared.

    Args:
        windows: ``evaluation_windows`` of a report.
        asked: windows asked for, ``preview`` and ``final``.
    """
    preview, final = windows["preview"], windows["final"]
    ids = [*preview["window_ids"], *final["window_ids"]]
    paired = sum(_is_paired(part, index) for part in (preview, final) for index in range(len(part["window_ids"])))
    shared = len(set(preview["window_ids"]) & set(final["window_ids"]))
    return {
        "paired_windows": paired,
        "window_match_fraction": rounded(paired / len(ids)) if ids else 0.0,
        "window_overlap_fraction": rounded(shared / len(ids)) if ids else 0.0,
        "coverage": {
            "preview": {"asked": asked["preview"], "scored": len(preview["window_ids"])},
            "final": {"asked": asked["final"], "scored": len(final["window_ids"])},
            "tokens": sum(preview["token_counts"]) + sum(final["token_counts"]),
        },
    }


def derive_primary_metric(
    windows: Mapping[str, Any], policy: Mapping[str, Any], bootstrap_seed: int, not_scored: str | None
) -> dict[str, Any]:
    """Return the ``primary_metric`` block: perplexities, paired ratio, interval, drift.

    D = sum(t * (l_subject - l_baseline)) / sum(t) over the final windows, ratio = exp(D), interval = exp(BCa of D).
    A loss that is not finite (``null``) makes the metric ``invalid``: every number that needs it is null.

    Args:
        windows: ``evaluation_windows`` of a report.
        policy: the ``primary_metric`` limits.
        bootstrap_seed: of the resampling stream.
        not_scored: why the subject could not be scored, or None.
    """
    final, preview = windows["final"], windows["preview"]
    means = _mean_losses(preview, final)
    block: dict[str, Any] = {
        "kind": "ppl_causal",
        "unit": "ppl",
        "direction": "lower_is_better",
        "gating_basis": "upper",
        **{name: None if mean is None else rounded(exponential(mean)) for name, mean in means.items()},
        "drift": _drift(means),
        "ratio_vs_baseline": None,
        "ci": None,
        "display_ci": None,
        "interval_method": None,
        "degenerate": None,
        "degraded": False,
        "invalid": False,
        "reason": None,
    }
    reason = not_scored or _invalid_reason(preview, final)
    if reason is not None:
        return {**block, "invalid": True, "reason": reason}
    deltas = _deltas(final)
    ratio = rounded(exponential(weighted_mean(deltas, final["token_counts"])))
    interval = bca_interval(
        deltas,
        final["token_counts"],
        replicates=policy["replicates"],
        alpha=policy["alpha"],
        seed=bootstrap_seed,
    )
    low, high = rounded(exponential(interval.low)), rounded(exponential(interval.high))
    block |= {
        "ratio_vs_baseline": ratio,
        "ci": [low, high],
        "display_ci": [_display(low), _display(high)],
        "interval_method": interval.method,
        "degenerate": interval.degenerate,
        "degraded": ratio is None or ratio >= policy["degraded_ratio"],
    }
    if ratio is None or high is None:
        block["reason"] = "the ratio is too large for a float"
    return block


def derive_tail(windows: Mapping[str, Any], policy: Mapping[str, Any], invalid: bool) -> dict[str, Any]:
    """Return the ``primary_metric_tail`` block: a high quantile of the loss differences against its limit.

    Fewer windows than the policy asks for leave it not evaluated. In mode ``warn`` it never blocks.
    """
    final = windows["final"]
    count = len(final["window_ids"])
    block: dict[str, Any] = {
        "mode": policy["mode"],
        "quantile": policy["quantile"],
        "limit": policy["limit"],
        "windows": count,
        "value": None,
        "status": "not_evaluated",
    }
    if invalid:
        return {**block, "status": "fail"}
    if count < policy["min_windows"]:
        return block
    value = rounded(quantile(_deltas(final), policy["quantile"]))
    assert value is not None
    acceptable = value <= policy["limit"]
    return {**block, "value": value, "status": "pass" if acceptable else policy["mode"]}


def ratio_is_acceptable(metric: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
    """Tell whether the ratio and the upper end of its interval are within the limit."""
    if metric["invalid"] or metric["ratio_vs_baseline"] is None or metric["ci"][1] is None:
        return False
    limit = policy["ratio_limit"]
    return bool(metric["ratio_vs_baseline"] <= limit and metric["ci"][1] <= limit)


def drift_is_acceptable(metric: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
    """Tell whether the subject drifts from preview to final as its baseline does."""
    low, high = policy["drift_band"]
    return metric["drift"] is not None and bool(low <= metric["drift"] <= high)


def _deltas(part: Mapping[str, Any]) -> list[float]:
    return [own - base for own, base in zip(part["logloss"], part["baseline_logloss"], strict=True)]


def _is_paired(part: Mapping[str, Any], index: int) -> bool:
    return part["logloss"][index] is not None and part["baseline_logloss"][index] is not None


def _invalid_reason(*parts: Mapping[str, Any]) -> str | None:
    if any(not part["window_ids"] for part in parts):
        return "no window was scored"
    broken = sum(loss is None for part in parts for loss in part["logloss"])
    if broken:
        return f"the subject's loss is not finite on {broken} of {sum(len(part['logloss']) for part in parts)} windows"
    if any(loss is None for part in parts for loss in part["baseline_logloss"]):
        return "the baseline's loss is not finite"
    return None


def _mean_loss(part: Mapping[str, Any], side: str) -> float | None:
    losses: Sequence[float | None] = part[side]
    finite = [loss for loss in losses if loss is not None]
    if not finite or len(finite) < len(losses):
        return None
    return weighted_mean(finite, part["token_counts"])


def _mean_losses(preview: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the mean losses of both parts and sides, by the names of their perplexities; None where not finite."""
    return {
        "preview": _mean_loss(preview, "logloss"),
        "final": _mean_loss(final, "logloss"),
        "baseline_preview": _mean_loss(preview, "baseline_logloss"),
        "baseline_final": _mean_loss(final, "baseline_logloss"),
    }


def derive_drift(preview: Mapping[str, Any], final: Mapping[str, Any]) -> float | None:
    """Return the subject's drift of perplexity from preview to final windows relative to its baseline's."""
    return _drift(_mean_losses(preview, final))


def _drift(means: Mapping[str, float | None]) -> float | None:
    preview, final = means["preview"], means["final"]
    base_preview, base_final = means["baseline_preview"], means["baseline_final"]
    if preview is None or final is None or base_preview is None or base_final is None:
        return None
    return rounded(exponential((final - preview) - (base_final - base_preview)))


def _display(value: float | None) -> float | None:
    """Return a number as it is shown: six significant digits."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
