"""Fidelity: how often, and how far, the subject's next-token distribution differs from the baseline's.

A subject may have the same perplexity as its baseline and still give other answers. ``invarlock.measuring`` measures
the divergence at each position. This module turns its sums by window and its histogram into a mean with an interval,
quantiles, the share of positions with the same top token, and gates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from invarlock.documents import JsonObject
from invarlock.errors import EvaluationError
from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.gate import Gate, number_or_words
from invarlock.judgement.learning import FittedLimit, LearnedLimit, NullChange, largest_with_margin
from invarlock.judgement.shares import Shares, share_of
from invarlock.judgement.slices import (
    by_slice,
    chosen,
    detected_in,
    in_every_slice,
    largest_shares,
    limits_of,
    names,
    places,
)
from invarlock.metrics.fidelity_page import page_section, summary
from invarlock.metrics.fidelity_raw import consistency_problems, null_problems, raw_of_slice, raw_problems
from invarlock.metrics.metric import Metric
from invarlock.problems import Code
from invarlock.statistics.histogram import quantile_edge
from invarlock.statistics.intervals import bca_interval, weighted_mean
from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]

NAME = "fidelity"
# Whether a subject is meant to keep its baseline's answers or to change them.
PRESERVE, CHANGE = "preserve", "change"
# The numbers that a preset learns from harmless changes.
LEVEL = ("kl_mean", "same_top_share", "kl_p999")
QUANTILES = {"kl_p50": 0.5, "kl_p90": 0.9, "kl_p99": 0.99, "kl_p999": 0.999}


def derive_fidelity(
    raw: Block, token_counts: Sequence[int], bootstrap: Block, not_scored: str | None = None
) -> JsonObject:
    """Return the derived part of the ``fidelity`` block.

    If a window has a number that is not finite, the block is ``invalid`` and all numbers of the subject are null.

    Args:
        raw: ``baseline``, and ``subject``, which is None if it was not scored.
        token_counts: the predicted positions of each final window.
        bootstrap: ``replicates``, ``alpha`` and ``seed`` of the intervals.
        not_scored: why the subject was not scored, or None.
    """
    baseline, subject = raw["baseline"], raw["subject"]
    # if an engine gives only some of the tokens, its number of tokens decides how many were compared
    compared = baseline if subject is None else subject.get("compared", baseline)
    block: dict[str, Any] = {
        **dict.fromkeys(("kl_mean", "kl_mean_ci", *QUANTILES, "kl_max", "same_top_share", "same_top_ci")),
        **dict.fromkeys(("confident_flip_share", "confident_flip_ci", "delta_p_rms")),
        "top_k": compared["top_k"],
        "rest_mass": compared["rest_mass"],
        "invalid": True,
        "reason": None,
    }
    reason = not_scored or _invalid_reason(subject)
    if reason is not None:
        return {**block, "reason": reason}
    positions = sum(token_counts)
    kl_mean, kl_mean_ci = _mean(subject["kl_sum"], token_counts, bootstrap)
    same, same_ci = _mean(subject["same_top"], token_counts, bootstrap)
    block |= {
        "kl_mean": kl_mean,
        "kl_mean_ci": kl_mean_ci,
        **_quantiles(subject),
        "kl_max": subject["kl_max"],
        "same_top_share": same,
        "same_top_ci": same_ci,
        "delta_p_rms": rounded(math.sqrt(math.fsum(subject["delta_p_squared"]) / positions)),
        "invalid": False,
    }
    pairs = zip(baseline["confident"], subject["confident_same"], strict=True)
    flips = [(count - kept, count) for count, kept in pairs if count]
    if flips:
        counts, among = zip(*flips, strict=True)
        block["confident_flip_share"], block["confident_flip_ci"] = _mean(counts, among, bootstrap)
    return block


def _invalid_reason(subject: Block | None) -> str | None:
    if subject is None:
        return "the subject was not scored"
    broken = sum(value is None for value in subject["kl_sum"])
    if broken:
        return f"a divergence is not finite on {broken} of {len(subject['kl_sum'])} windows"
    return None


def _mean(
    sums: Sequence[float], counts: Sequence[int], bootstrap: Block
) -> tuple[float | None, list[float | None] | None]:
    """Return the mean per position and its interval over windows, given each window's sum and number of positions."""
    means = [value / count for value, count in zip(sums, counts, strict=True)]
    interval = bca_interval(means, counts, **{key: bootstrap[key] for key in ("replicates", "alpha", "seed")})
    return rounded(weighted_mean(means, counts)), [rounded(interval.low), rounded(interval.high)]


def _quantiles(subject: Block) -> dict[str, float | None]:
    histogram = subject["histogram"]
    return {
        name: rounded(quantile_edge(histogram["first"], histogram["counts"], level, subject["kl_max"]))
        for name, level in QUANTILES.items()
    }


def _judge(windows: Block, limits: Block, context: Context) -> dict[str, Any]:
    return _whole_and_slices(windows["final"], context.raws[NAME], context.bootstrap, context.not_scored)


def _whole_and_slices(final: Block, raw: Block, bootstrap: Block, not_scored: str | None = None) -> dict[str, Any]:
    """Return the derived part over all final windows, with the derived part of each slice."""
    block = derive_fidelity(raw, final["token_counts"], bootstrap, not_scored)
    slices = {}
    for name in names(final):
        wanted = places(final, name)
        counts = chosen(final["token_counts"], wanted)
        slices[name] = derive_fidelity(raw_of_slice(raw, name, wanted), counts, bootstrap, not_scored)
        # these two are known only for all windows together
        del slices[name]["top_k"], slices[name]["rest_mass"]
    return {**block, "slices": slices} if slices else block


def _gates(block: Block, limits: Block) -> list[Gate]:
    """Return the gates; a subject that is meant to answer differently has none, and its numbers are only reported."""
    return [] if limits["intent"] == CHANGE else in_every_slice(block, limits, _gates_of)


def _gates_of(block: Block, limits: Block) -> list[Gate]:
    upper, lower, tail = _ends(block)
    return [
        Gate(
            "fidelity_kl_acceptable",
            _words(block, block["kl_mean"], block["kl_mean_ci"], "nats a token"),
            f"{limits['kl_limit']:g} for the upper end",
            upper is not None and upper <= limits["kl_limit"],
        ),
        Gate(
            "fidelity_same_top_acceptable",
            _words(block, block["same_top_share"], block["same_top_ci"], "of the top tokens are the same"),
            f"at least {limits['same_top_limit']:g} for the lower end",
            lower is not None and lower >= limits["same_top_limit"],
        ),
        Gate(
            "fidelity_tail_acceptable",
            number_or_words(tail) + ("" if tail is None else " nats a token at the 99.9 % quantile of positions"),
            f"{limits['tail_limit']:g}",
            tail is not None and tail <= limits["tail_limit"],
        ),
    ]


def _ends(block: Block) -> tuple[float | None, float | None, float | None]:
    """Return the values that gates compare: the worse end of each interval, and the 99.9 % quantile."""
    if block["invalid"]:
        return None, None, None
    # a bootstrap interval may exclude its estimate, so the worse of the two is compared
    upper = max(block["kl_mean"], block["kl_mean_ci"][1])
    lower = min(block["same_top_share"], block["same_top_ci"][0])
    return upper, lower, block["kl_p999"]


def _words(block: Block, value: float | None, interval: Sequence[float | None] | None, unit: str) -> str:
    if block["invalid"] or interval is None:
        return f"no value ({block['reason']})"
    low, high = (number_or_words(end) for end in interval)
    return f"{number_or_words(value)} [{low}, {high}] {unit}"


def _limits_used(block: Block, limits: Block) -> Shares:
    return {} if limits["intent"] == CHANGE else largest_shares(block, limits, _shares_of)


def _shares_of(block: Block, limits: Block) -> Shares:
    upper, lower, tail = _ends(block)
    return {
        "fidelity.kl_limit": share_of(upper, limits["kl_limit"]),
        "fidelity.same_top_limit": None if lower is None else share_of(1 - lower, 1 - limits["same_top_limit"]),
        "fidelity.tail_limit": share_of(tail, limits["tail_limit"]),
    }


def _null_block(change: NullChange) -> JsonObject:
    """Return the numbers of a null change; its intervals set no limit, so one replicate is enough and saves time."""
    bootstrap = {"replicates": 1, "alpha": 0.05, "seed": 0}
    return _whole_and_slices(change.windows["final"], change.pair(NAME), bootstrap)


def _null_signals(change: NullChange, limits: Block) -> dict[str, bool]:
    block = _null_block(change)
    rows = [(block, limits), *((row, limits_of(limits, name)) for name, row in block.get("slices", {}).items())]
    return {NAME: any(row["invalid"] or _is_beyond(row, own) for row, own in rows)}


def _is_beyond(level: Block, limits: Block) -> bool:
    """Return whether a finite level exceeds a limit."""
    return bool(
        level["kl_mean"] > limits["kl_limit"]
        or level["same_top_share"] < limits["same_top_limit"]
        or level["kl_p999"] > limits["tail_limit"]
    )


def _null_level(change: NullChange, policy: Block) -> JsonObject:
    block = _null_block(change)
    slices = {name: {key: row[key] for key in LEVEL} for name, row in block.get("slices", {}).items()}
    level = {"name": change.change["name"], **{key: block[key] for key in LEVEL}}
    return {**level, "slices": slices} if slices else level


def _null_levels(changes: Sequence[Block], policy: Block, windows: int) -> JsonObject:
    """Return the null level of each kind of change: the largest divergences and the smallest share of its runs.

    Raises:
        EvaluationError: when a harmless change exceeds a limit of the tier, or a number is not finite.
    """
    limits = policy[NAME]
    levels: dict[str, JsonObject] = {}
    for name in dict.fromkeys(change["name"] for change in changes):
        own = [change for change in changes if change["name"] == name]
        if any(change["kl_mean"] is None for change in own):
            raise EvaluationError(
                f"{name}: a divergence from the baseline is not finite; no null level follows",
                code=Code.NULL_RUNS_UNUSABLE,
            )
        level = _worst(own)
        # a slice may have its own limits, which are not the tier's
        if _is_beyond(level, limits):
            raise EvaluationError(
                f"{name}: a harmless change of the baseline diverges by {level['kl_mean']:.4g} nats a token and keeps "
                f"{level['same_top_share']:.1%} of the top tokens, beyond the tier's limits; use another tier",
                code=Code.NULL_RUNS_UNUSABLE,
            )
        slices = {part: _worst([change["slices"][part] for change in own]) for part in own[0].get("slices", {})}
        levels[name] = {**level, "slices": slices} if slices else level
    return {"n": len(changes), "limit": levels}


def _worst(rows: Sequence[Block]) -> JsonObject:
    """Return the largest divergences and the smallest share of some null changes."""
    return {
        "kl_mean": max(row["kl_mean"] for row in rows),
        "same_top_share": min(row["same_top_share"] for row in rows),
        "kl_p999": max(row["kl_p999"] for row in rows),
    }


FIDELITY = Metric(
    name=NAME,
    judge=_judge,
    page_section=page_section,
    summary=summary,
    flags=("fidelity_kl_acceptable", "fidelity_same_top_acceptable", "fidelity_tail_acceptable"),
    gates=_gates,
    detects=lambda validation: any(
        validation.get(flag) is False
        for flag in ("fidelity_kl_acceptable", "fidelity_same_top_acceptable", "fidelity_tail_acceptable")
    ),
    limits_used=_limits_used,
    null_signals=_null_signals,
    detectors=(
        DetectorKind(NAME, lambda detector, report: detected_in(report[NAME], detector).get(detector["field"])),
    ),
    learned=(
        LearnedLimit(
            block=NAME,
            limit="fidelity.null_level",
            statistics=_null_level,
            derive=_null_levels,
            value=lambda block: block["limit"],
        ),
    ),
    fitted=(
        FittedLimit("fidelity.kl_limit", largest_with_margin, of_report=lambda block: [block["kl_mean_ci"][1]]),
        FittedLimit("fidelity.tail_limit", largest_with_margin, of_report=lambda block: [block["kl_p999"]]),
    ),
    facts=lambda block: {
        **{f"{NAME}_{key}": block[key] for key in ("kl_mean", "same_top_share")},
        **by_slice(block, "kl_mean", f"{NAME}_kl_by_slice"),
    },
    has_raw=True,
    raw_problems=raw_problems,
    consistency_problems=consistency_problems,
    null_problems=null_problems,
)
