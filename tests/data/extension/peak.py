"""A guard that a test adds: the largest magnitude of a matrix may not grow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.guards.guard import Guard, TensorMeasure
from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.gate import Gate, worst_violation
from invarlock.judgement.shares import Shares, share_of
from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import data_table, most_changed, number_cell, number_text
from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]
FAMILIES = ("attn", "ffn")


def _peak(name: str, family: str, tensor: Any) -> dict[str, Any] | None:
    if family not in FAMILIES or tensor.ndim != 2:
        return None
    value = float(tensor.float().abs().max())
    return {"peak": value if math.isfinite(value) else None}


def _judge(raw: Block, limits: Block, context: Context) -> dict[str, Any]:
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    growths = {
        name: rounded(after[name]["peak"] / before[name]["peak"] - 1.0) or 0.0
        for name in sorted(before.keys() & after.keys())
        if before[name]["peak"] and after[name]["peak"] is not None
    }
    grown = {name: growth for name, growth in growths.items() if growth > limits["growth"]}
    violations = [
        {"module": name, "severity": "fail", "reason": f"its peak grew by {growth:.4g}, limit {limits['growth']:g}"}
        for name, growth in grown.items()
    ]
    return {
        "status": "fail" if grown else "pass",
        "passed": not grown,
        "metrics": {"modules": len(growths), "largest_growth": max(growths.values(), default=None)},
        "modules": growths,
        "violations": violations,
    }


def _gates(block: Block, limits: Block) -> list[Gate]:
    return [Gate("peak_stable", worst_violation(block), f"{limits['growth']:g}", block["passed"])]


def _limits_used(block: Block, limits: Block) -> Shares:
    return {"peak.growth": share_of(block["metrics"]["largest_growth"], limits["growth"])}


def _grown(block: Block) -> list[str]:
    return [row["module"] for row in block.get("violations", ())]


def _page_section(block: Block) -> Iterator[Markup]:
    yield element("p", f"largest growth of a peak {number_text(block['metrics']['largest_growth'])}")
    yield data_table(
        ("matrix", "growth of its peak"),
        [(element("code", name), number_cell(block["modules"][name])) for name in most_changed(block["modules"])],
        "no peak changed",
    )


PEAKS = {
    "additionalProperties": False,
    "properties": {
        "measurement_contract_hash": {"pattern": "^[0-9a-f]{16}$", "type": "string"},
        "modules": {
            "additionalProperties": {
                "additionalProperties": False,
                "properties": {"peak": {"minimum": 0, "type": ["number", "null"]}},
                "required": ["peak"],
                "type": "object",
            },
            "maxProperties": 1000000,
            "propertyNames": {"maxLength": 512},
            "type": "object",
        },
    },
    "required": ["measurement_contract_hash", "modules"],
    "type": "object",
}
LIMITS = {"growth": 0.5}

PEAK = Guard(
    name="peak",
    judge=_judge,
    page_section=_page_section,
    flags=("peak_stable",),
    gates=_gates,
    limits_used=_limits_used,
    signalled_modules=_grown,
    measure=TensorMeasure({"guard": "peak", "of": "largest magnitude of each matrix of attention and FFN"}, _peak),
    detectors=(DetectorKind("peaks_grown", lambda detector, report: len(_grown(report["peak"]))),),
    schema={
        "definitions": {"peaks": PEAKS},
        "raw": {"baseline": "peaks", "subject": "peaks"},
        "measured": "checkpoint",
        "limits": {
            "additionalProperties": False,
            "properties": {"growth": {"exclusiveMinimum": 0, "type": "number"}},
            "required": ["growth"],
            "type": "object",
        },
        "tiers": {"aggressive": LIMITS, "balanced": LIMITS, "conservative": LIMITS},
        "detectors": {
            "peaks_grown": {
                "additionalProperties": False,
                "properties": {"kind": {"const": "peaks_grown"}, "min": {"minimum": 1, "type": "integer"}},
                "required": ["kind", "min"],
                "type": "object",
            }
        },
    },
)
