"""A metric that a test adds: the window whose loss rose most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.gate import Gate, number_or_words
from invarlock.judgement.shares import Shares, share_of
from invarlock.metrics.metric import Metric
from invarlock.metrics.perplexity import loss_differences
from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import number_text
from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]


def _judge(windows: Block, limits: Block, context: Context) -> dict[str, Any]:
    if context.blocks["primary_metric"]["invalid"]:
        return {"value": None, "window": None}
    differences = dict(zip(windows["final"]["window_ids"], loss_differences(windows["final"]), strict=True))
    window = max(differences, key=lambda name: differences[name])
    return {"value": rounded(differences[window]), "window": window}


def _gates(block: Block, limits: Block) -> list[Gate]:
    value = block["value"]
    holds = value is not None and value <= limits["limit"]
    return [Gate("worst_window_acceptable", number_or_words(value), f"{limits['limit']:g}", holds)]


def _limits_used(block: Block, limits: Block) -> Shares:
    return {"worst_window.limit": share_of(block["value"], limits["limit"])}


def _page_section(report: Block) -> Iterator[Markup]:
    block = report["worst_window"]
    yield element("h2", "The window that got worst")
    yield element("p", f"{number_text(block['value'])} nats a token, window {block['window']}")


LIMITS = {"limit": 0.25}

WORST_WINDOW = Metric(
    name="worst_window",
    judge=_judge,
    page_section=_page_section,
    flags=("worst_window_acceptable",),
    gates=_gates,
    detects=lambda validation: validation.get("worst_window_acceptable") is False,
    limits_used=_limits_used,
    detectors=(DetectorKind("worst_window", lambda detector, report: report["worst_window"]["value"]),),
    schema={
        "limits": {
            "additionalProperties": False,
            "properties": {"limit": {"exclusiveMinimum": 0, "type": "number"}},
            "required": ["limit"],
            "type": "object",
        },
        "tiers": {"aggressive": LIMITS, "balanced": LIMITS, "conservative": LIMITS},
        "detectors": {
            "worst_window": {
                "additionalProperties": False,
                "properties": {"kind": {"const": "worst_window"}, "min": {"type": "number"}},
                "required": ["kind", "min"],
                "type": "object",
            }
        },
    },
)
