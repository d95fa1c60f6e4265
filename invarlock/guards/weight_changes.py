"""The judgement of changes of weight matrices: do they look like compression, or like a defect?

A change is reported, however small it is, if it is a scale, flips signs of large weights or has one direction. An FFN
whose matrices all have the same reordering of hidden units computes the same function, and is reported as reordered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]

# For each share: the raw number, the tier's limit, and the finding for a matrix beyond the limit.
_SHARES = (
    ("coherent", "coherent_share", "{:.1%} of its change rescales its own weights, limit {:.1%}"),
    ("flipped", "flipped_share", "{:.1%} of its change flips the sign of large weights, limit {:.1%}"),
    ("edge_risk", "edge_risk", "its change runs along one direction, {:.3g} times the edge of noise, limit {:.3g}"),
)


def judge_changes(
    changes: Rows, skipped: set[str], limits: Mapping[str, Any], low_rank: bool = False
) -> dict[str, list[str]]:
    """Return the findings of each matrix whose change does not look like compression.

    Args:
        changes: the raw changes by matrix: ``relative``, ``coherent``, ``flipped``, ``edge_risk``, ``unit_order``.
        skipped: the matrices that ``reordered`` and ``rounded_only`` return.
        limits: ``coherent_share``, ``flipped_share``, ``edge_risk``.
        low_rank: whether the changes are expected to have few directions, as for an adapter or a fine-tune.
    """
    judged = _judged(changes, skipped, low_rank)
    found = {name: _findings(change, limits) for name, change in judged.items()}
    return {name: reasons for name, reasons in found.items() if reasons}


def rounded_only(changes: Rows, canonical: Collection[str], limits: Mapping[str, Any], rounding: float) -> set[str]:
    """Return the matrices whose change is no larger than rounding can cause.

    A matrix in canonical form is a product of stored numbers. Each of them was rounded on both sides, so the matrix may
    change by ``rounding``, the relative error of one rounding. Others may change by the limit ``relative_floor``.
    """
    floor = limits["relative_floor"]
    return {
        name
        for name, change in changes.items()
        if change["relative"] is not None
        and change["relative"] < (max(floor, rounding) if name in canonical else floor)
    }


def reordered(changes: Rows, modules: Rows) -> set[str]:
    """Return the matrices of FFNs whose hidden units are reordered identically in all matrices."""
    blocks: dict[str, list[str]] = {}
    for name, module in modules.items():
        if module["family"] == "ffn":
            blocks.setdefault(name.removesuffix(".weight").rpartition(".")[0], []).append(name)
    same: set[str] = set()
    for names in blocks.values():
        orders = {changes[name]["unit_order"] if name in changes else None for name in names}
        if len(names) > 1 and len(orders) == 1 and None not in orders:
            same |= set(names)
    return same


def change_metrics(
    changes: Rows, same: set[str], skipped: set[str], findings: Mapping[str, Any], low_rank: bool = False
) -> dict[str, Any]:
    """Return how many matrices changed, in which way, and the most extreme value of each judged share."""
    judged = _judged(changes, skipped, low_rank).values()
    return {
        "changed_modules": len(changes),
        "reordered_modules": len(same),
        "suspicious_changes": sorted(findings),
        **{
            f"max_{key}": max((row[key] for row in judged if row[key] is not None), default=None)
            for key, _, _ in _SHARES
        },
    }


def _judged(changes: Rows, skipped: set[str], low_rank: bool) -> dict[str, Mapping[str, Any]]:
    return {
        name: {**row, "edge_risk": None} if low_rank else row for name, row in changes.items() if name not in skipped
    }


def _findings(change: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    return [
        text.format(change[key], limits[limit])
        for key, limit, text in _SHARES
        if change[key] is not None and change[key] > limits[limit]
    ]
