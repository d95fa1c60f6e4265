"""The tail of the loss differences: a few windows that got much worse, which a mean like perplexity hides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from invarlock.judgement.context import Context
from invarlock.judgement.gate import Gate, number_or_words
from invarlock.judgement.learning import FittedLimit, largest_with_margin
from invarlock.judgement.shares import Shares, share_of
from invarlock.metrics.metric import Metric
from invarlock.metrics.perplexity import TOO_FEW, loss_differences
from invarlock.pages.figures import window_figure
from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import number_text
from invarlock.statistics.intervals import quantile
from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]


class TailBlock(TypedDict):
    """A quantile of the loss differences by window, in nats per token, and its limit."""

    mode: str
    quantile: float
    limit: float
    windows: int
    value: float | None
    status: str
    reason: str | None


def derive_tail(windows: Block, policy: Block, invalid: bool) -> TailBlock:
    """Return the ``primary_metric_tail`` block: a high quantile of the loss differences against its limit.

    In mode ``warn`` the tail never blocks, and is not evaluated with fewer windows than the policy requires. In mode
    ``fail`` too few windows fail it, because too little evidence must not pass.
    """
    final = windows["final"]
    count = len(final["window_ids"])
    block: TailBlock = {
        "mode": policy["mode"],
        "quantile": policy["quantile"],
        "limit": policy["limit"],
        "windows": count,
        "value": None,
        "status": "not_evaluated",
        "reason": None,
    }
    if invalid:
        return {**block, "status": "fail"}
    if count < policy["min_windows"]:
        status = "fail" if policy["mode"] == "fail" else "not_evaluated"
        return {**block, "status": status, "reason": TOO_FEW}
    value = rounded(quantile(loss_differences(final), policy["quantile"]))
    assert value is not None
    acceptable = value <= policy["limit"]
    return {**block, "value": value, "status": "pass" if acceptable else policy["mode"]}


def _judge(windows: Block, limits: Block, context: Context) -> TailBlock:
    return derive_tail(windows, limits, context.blocks["primary_metric"]["invalid"])


def _gates(block: Block, limits: Block) -> list[Gate]:
    if block["status"] == "not_evaluated":
        return []
    value, limit = block["value"], block["limit"]
    holds = value is not None and value <= limit
    measured = block["reason"] or number_or_words(value)
    if value is not None:
        measured += f" nats a token at the {100 * block['quantile']:g} % quantile of windows"
    return [Gate("primary_metric_tail_acceptable", measured, f"{limit:g}", holds, block["mode"] == "fail")]


def _limits_used(block: Block, limits: Block) -> Shares:
    if block["status"] == "not_evaluated":
        return {}
    return {"primary_metric_tail.limit": share_of(block["value"], block["limit"])}


def _page_section(report: Block) -> Iterator[Markup]:
    final, tail = report["evaluation_windows"]["final"], report["primary_metric_tail"]
    pairs = zip(final["logloss"], final["baseline_logloss"], strict=True)
    differences = [None if own is None or base is None else float(own) - float(base) for own, base in pairs]
    known = [value for value in differences if value is not None]
    count = len(differences)
    yield element("h2", "Loss differences by window")
    if not known:
        yield element("p", f"none of the {count} final windows has a finite difference")
        return
    drawing, each = window_figure(differences, None if tail["status"] == "not_evaluated" else tail["limit"])
    missing = count - len(known)
    caption = (
        f"subject minus baseline, in nats a token, of {count} final windows in the order drawn; from "
        f"{number_text(min(known))} to {number_text(max(known))}"
        + (f"; a bar spans {each} windows" if each > 1 else "")
        + (f"; {missing} not finite" if missing else "")
        + _caption(tail)
    )
    yield element("figure", drawing, element("figcaption", caption))


def _caption(tail: Block) -> str:
    if tail["value"] is None:
        return ""
    return (
        f"; their {100 * tail['quantile']:g} % quantile is {number_text(tail['value'])}, and its limit "
        f"{tail['limit']:g}, drawn as a dashed line if a window comes near it"
    )


TAIL = Metric(
    name="primary_metric_tail",
    judge=_judge,
    page_section=_page_section,
    flags=("primary_metric_tail_acceptable",),
    gates=_gates,
    detects=lambda validation: validation.get("primary_metric_tail_acceptable") is False,
    limits_used=_limits_used,
    fitted=(FittedLimit("primary_metric_tail.limit", largest_with_margin, of_report=lambda block: [block["value"]]),),
    is_guarded=False,
)
