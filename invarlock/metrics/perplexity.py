"""The primary metric: the perplexity of the subject relative to the baseline on the same windows, and its gates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from invarlock.documents import JsonObject
from invarlock.errors import EvaluationError
from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.gate import Gate, number_or_words
from invarlock.judgement.learning import (
    MARGIN,
    FittedLimit,
    LearnedLimit,
    NullChange,
    upper_quantile,
)
from invarlock.judgement.shares import Shares, share_of
from invarlock.judgement.slices import by_slice, detected_in, in_every_slice, largest_shares, names, of_slice
from invarlock.metrics.metric import Metric
from invarlock.metrics.perplexity_page import page_section, summary
from invarlock.pages.parts import counted
from invarlock.problems import Code
from invarlock.statistics.intervals import bca_interval, exponential, weighted_mean
from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]

EVIDENCE_FLAG = "primary_metric_evidence_acceptable"
TOO_FEW = "too few windows"
NO_INTERVAL = "no interval, because no ratio could be computed"
# The fields of each slice in a report.
OF_A_SLICE = (
    "windows",
    "baseline_final",
    "final",
    "ratio_vs_baseline",
    "ci",
    "interval_method",
    "degenerate",
    "invalid",
    "reason",
)


class PartCoverage(TypedDict):
    """The numbers of windows that were required by a setting and that were scored."""

    asked: int
    scored: int


class Coverage(TypedDict):
    """The scored windows and tokens."""

    preview: PartCoverage
    final: PartCoverage
    tokens: int


class WindowStatistics(TypedDict):
    """How well the windows of both sides can be paired."""

    paired_windows: int
    window_match_fraction: float | None
    window_overlap_fraction: float | None
    coverage: Coverage


class DriftBand(TypedDict):
    """The tier's band of drifts, and the band of ``n`` null changes; today's null runs measure no drift."""

    n: int
    null_band: list[float | None]
    limit: list[float]


def window_statistics(windows: Mapping[str, Any], requested: Mapping[str, int]) -> WindowStatistics:
    """Return how well the windows of both sides can be paired: counts, and the fractions scored and shared.

    Args:
        windows: ``evaluation_windows`` of a report.
        requested: number of windows, ``preview`` and ``final``.
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
            "preview": {"asked": requested["preview"], "scored": len(preview["window_ids"])},
            "final": {"asked": requested["final"], "scored": len(final["window_ids"])},
            "tokens": sum(preview["token_counts"]) + sum(final["token_counts"]),
        },
    }


def derive_primary_metric(
    windows: Mapping[str, Any], policy: Mapping[str, Any], bootstrap_seed: int, not_scored: str | None
) -> JsonObject:
    """Return the ``primary_metric`` block: perplexities, paired ratio, interval, drift.

    D = sum(t * (l_subject - l_baseline)) / sum(t) over the final windows, ratio = exp(D), interval = exp(BCa of D).
    A loss that is not finite (``null``) makes the metric ``invalid``; every number that needs the loss is then null.

    Args:
        windows: ``evaluation_windows`` of a report.
        policy: the ``primary_metric`` limits.
        bootstrap_seed: the seed of the resampling stream.
        not_scored: why the subject could not be scored, or None.
    """
    final, preview = windows["final"], windows["preview"]
    means = _mean_losses(preview, final)
    block: JsonObject = {
        "kind": "ppl_causal",
        "unit": "ppl",
        "direction": "lower_is_better",
        "gating_basis": "upper",
        "windows": len(final["window_ids"]),
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
    deltas = loss_differences(final)
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


def ratio_is_acceptable(metric: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
    """Return whether the ratio and the upper end of its interval are within the limit."""
    if metric["invalid"] or metric["ratio_vs_baseline"] is None or metric["ci"][1] is None:
        return False
    limit = policy["ratio_limit"]
    return bool(metric["ratio_vs_baseline"] <= limit and metric["ci"][1] <= limit)


def drift_is_acceptable(metric: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
    """Return whether the subject drifts from preview to final windows as its baseline does."""
    low, high = policy["drift_band"]
    return metric["drift"] is not None and bool(low <= metric["drift"] <= high)


def loss_differences(part: Mapping[str, Any]) -> list[float]:
    """Return the subject's losses minus the baseline's, in nats per token, of windows with two finite losses."""
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
    """Return the mean losses of both parts and sides, under the names of their perplexities; None if not finite."""
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
    """Return a number for display: six significant digits."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _judge(windows: Block, limits: Block, context: Context) -> dict[str, Any]:
    seed, not_scored = context.bootstrap["seed"], context.not_scored
    block = derive_primary_metric(windows, limits, seed, not_scored)
    slices = {}
    for name in names(windows["final"]):
        own = derive_primary_metric(of_slice(windows, name), limits, seed, not_scored)
        slices[name] = {key: own[key] for key in OF_A_SLICE}
    return {**block, "slices": slices} if slices else block


def _gates(block: Block, limits: Block) -> list[Gate]:
    low, high = limits["drift_band"]
    ratio, evidence = in_every_slice(block, limits, _ratio_gates)
    drift = Gate(
        "preview_final_drift_acceptable",
        "no drift" if block["drift"] is None else f"drift {block['drift']:.4g}",
        f"{low:g} to {high:g}",
        drift_is_acceptable(block, limits),
    )
    return [ratio, drift, evidence]


def _ratio_gates(block: Block, limits: Block) -> list[Gate]:
    """Return the gates of the ratio, which each slice has too; a slice has too few windows for a gate of the drift."""
    return [
        Gate(
            "primary_metric_acceptable",
            _ratio_words(block),
            f"{limits['ratio_limit']:g} for the upper end",
            ratio_is_acceptable(block, limits),
        ),
        Gate(
            EVIDENCE_FLAG,
            _evidence_words(block, limits),
            f"at least {limits['minimum_windows']} windows and an interval at most "
            f"{limits['maximum_interval_width']:g} wide",
            not missing_evidence(block, limits),
        ),
    ]


def missing_evidence(block: Block, limits: Block) -> list[str]:
    """Return why there is too little evidence to judge a subject.

    There are too few windows, no interval because a loss or the ratio is missing, or an interval that is too wide.
    """
    reasons = []
    if block["windows"] < limits["minimum_windows"]:
        reasons.append(TOO_FEW)
    width = _interval_width(block)
    if width is None:
        reasons.append(NO_INTERVAL)
    elif width > limits["maximum_interval_width"]:
        reasons.append("the interval is too wide")
    return reasons


def _interval_width(block: Block) -> float | None:
    """Return the width of the ratio's interval; None if there is no interval."""
    low, high = block["ci"] or (None, None)
    return None if low is None or high is None else float(high - low)


def _evidence_words(block: Block, limits: Block) -> str:
    reasons, width = missing_evidence(block, limits), _interval_width(block)
    # the windows of a subject that could not be scored are no evidence
    measured = [] if width is None else [f"{counted(block['windows'], 'window')} and an interval {width:.4g} wide"]
    return "; ".join((*reasons, *measured))


def _ratio_words(block: Block) -> str:
    if block["invalid"] or block["ratio_vs_baseline"] is None:
        return f"no ratio ({block['reason']})"
    low, high = (number_or_words(end) for end in block["ci"])
    return f"ratio {block['ratio_vs_baseline']:.4g} [{low}, {high}]"


def _ratio_used(metric: Block, limits: Block) -> Shares:
    upper = None if metric["ci"] is None else metric["ci"][1]
    used = None if upper is None else share_of(upper - 1, limits["ratio_limit"] - 1)
    return {"primary_metric.ratio_limit": used}


def _limits_used(metric: Block, limits: Block) -> Shares:
    low, high = limits["drift_band"]
    drift = metric["drift"]
    edge = high if drift is not None and drift > 1 else low
    return {
        **largest_shares(metric, limits, _ratio_used),
        "primary_metric.drift_band": None if drift is None else share_of((drift - 1) / (edge - 1), 1.0),
    }


def _null_signals(change: NullChange, limits: Block) -> dict[str, bool]:
    low, high = limits["drift_band"]
    drift = _null_drift(change, {})
    mean = weighted_mean(change.deltas, change.windows["final"]["token_counts"])
    return {
        "primary_metric": mean > math.log(limits["ratio_limit"]),
        "drift": drift is not None and not low <= drift <= high,
    }


def _null_drift(change: NullChange, policy: Block) -> float | None:
    """Return the drift of a null change; None if its run scored no preview windows."""
    return derive_drift(change.windows["preview"], change.windows["final"])


def _log_drifts(change: NullChange, policy: Block) -> list[float]:
    drift = _null_drift(change, policy)
    return [] if drift is None else [math.log(drift)]


def _drift_band(drifts: Sequence[float | None], policy: Block, windows: int) -> DriftBand:
    """Return the drift band: the null runs' band, and as the limit the tier's band, which must contain it.

    Raises:
        EvaluationError: when harmless changes drift by more than the tier allows, because there are too few windows.
    """
    low, high = policy["primary_metric"]["drift_band"]
    measured = [drift for drift in drifts if drift is not None]
    if not measured:
        return {"n": 0, "null_band": [None, None], "limit": [low, high]}
    level = MARGIN * upper_quantile([abs(math.log(drift)) for drift in measured])
    null_band = [rounded(math.exp(-level)), rounded(math.exp(level))]
    if math.exp(-level) < low or math.exp(level) > high:
        raise EvaluationError(
            f"harmless changes drift from preview to final by up to {math.exp(level):.4g} times, the tier allows "
            f"{low:g} to {high:g}; score more windows",
            code=Code.NULL_RUNS_UNUSABLE,
        )
    return {"n": len(measured), "null_band": null_band, "limit": [low, high]}


def _wide_band(band: Sequence[float], tier: Block) -> Iterator[str]:
    low, high = tier["drift_band"]
    if band[0] < low or band[1] > high:
        yield f"primary_metric.drift_band {band} is wider than the tier's {low:g} to {high:g}"


def _fitted_ratio(logarithms: Sequence[float]) -> tuple[float, Any]:
    level = upper_quantile(logarithms)
    return level, rounded(math.exp(MARGIN * max(0.0, level)))


def _fitted_band(logarithms: Sequence[float]) -> tuple[float, Any]:
    level = upper_quantile([abs(value) for value in logarithms])
    high = math.exp(MARGIN * level)
    return level, [rounded(1 / high), rounded(high)]


PERPLEXITY = Metric(
    name="primary_metric",
    judge=_judge,
    page_section=page_section,
    summary=summary,
    flags=("primary_metric_acceptable", "preview_final_drift_acceptable", EVIDENCE_FLAG),
    gates=_gates,
    detects=lambda validation: validation["primary_metric_acceptable"] is False,
    limits_used=_limits_used,
    null_signals=_null_signals,
    detectors=(
        DetectorKind(
            "primary_metric",
            lambda detector, report: detected_in(report["primary_metric"], detector).get(detector["field"]),
        ),
    ),
    learned=(
        LearnedLimit(
            block="drift",
            limit="primary_metric.drift_band",
            statistics=_null_drift,
            derive=_drift_band,
            value=lambda block: block["limit"],
            refusals=_wide_band,
        ),
    ),
    fitted=(
        FittedLimit("primary_metric.ratio_limit", _fitted_ratio, of_report=lambda block: [math.log(block["ci"][1])]),
        FittedLimit(
            "primary_metric.drift_band",
            _fitted_band,
            of_change=_log_drifts,
            of_report=lambda block: [math.log(block["drift"])],
        ),
    ),
    facts=lambda block: by_slice(block, "ratio_vs_baseline", "ratio_by_slice"),
)
