"""The numbers that the rmt guard compares with its limits: how far edge risks changed, by family and by layer.

A family is judged by the change that more than half of its layers reach, and each layer by its own change. The largest
edge risk of a family is a poor measure: in SmolLM2's FFNs it comes from one layer's massive activation, which pruning
8 % of the weights lowers by 11 % without harm; in its attention it comes from a layer of the first block, which changes
in later blocks do not affect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median_low
from typing import Any, TypedDict

from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]
Modules = Mapping[str, Block]

# A family's limit in epsilons. Null changes stay within one epsilon; edits may move a family further. On four models,
# harmless edits, including merges of fine-tunes, move more than half of a family's layers by at most 1.8 %; an epsilon
# is 1 %.
EPSILONS = 3
# A single layer's edge risk may at most double or halve. Harmless edits of the same models raise it by at most 66 %
# (attention of one block, reduced to rank 64 of 576) and lower it by at most 34 %. It more than doubles in most layers
# of rank 1, and layers of zeros have none (docs/evidence.md).
LAYER_GROWTH, LAYER_FALL = 1.0, 0.5


class FamilyChange(TypedDict):
    """The change that more than half of a family's layers reach, its limit, and the extremes of its layers."""

    modules: int
    change: float | None
    limit: float | None
    largest_growth: float | None
    largest_fall: float | None


Families = Mapping[str, FamilyChange]


def growth(before: float | None, after: float | None) -> float | None:
    """Return subject / baseline - 1 of an edge risk; None if it is not known."""
    if before is None or after is None:
        return None
    # a layer with only constant features has an edge risk of 0: a fall by 100 %, or no change if both have none
    return rounded(after / before - 1.0) if before > 0 else (0.0 if after == 0 else None)


def derive_families(raw: Block, policy: Block) -> Families:
    """Return the row of each family of the baseline.

    Args:
        raw: ``baseline`` and ``subject``, as for ``derive_rmt``.
        policy: the ``rmt`` limits.
    """
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    own = policy.get("epsilon_by_family", {})
    families: dict[str, FamilyChange] = {}
    for family in sorted({row["family"] for row in before.values()}):
        names = [name for name, row in before.items() if row["family"] == family and name in after]
        moves = [growth(before[name]["edge_risk"], after[name]["edge_risk"]) for name in names]
        growths = [moved for moved in moves if moved is not None]
        families[family] = {
            "modules": len(names),
            "change": median_low(abs(moved) for moved in growths) if growths else None,
            "limit": rounded(EPSILONS * own.get(family, policy["epsilon"])),
            "largest_growth": max(growths, default=None),
            "largest_fall": min(growths, default=None),
        }
    return families


def epsilon_needed(row: Block) -> float | None:
    """Return the smallest epsilon with which a family of a report passes."""
    return None if row["change"] is None else rounded(row["change"] / EPSILONS)


def families_beyond(families: Mapping[str, Block]) -> Iterator[tuple[str, str]]:
    """Yield each family beyond its limit, with the reason."""
    for family, row in families.items():
        if row["change"] is not None and row["change"] > row["limit"]:
            words = f"moved by at least {row['change']:.4g}, more than {row['limit']:g}"
            yield family, f"over half of its edge risks {words}"


def layers_beyond(growths: Mapping[str, float | None], most: float, least: float) -> Iterator[tuple[str, str]]:
    """Yield each layer whose edge risk grew by more than ``most`` or fell by more than ``least``, with the reason."""
    for name, moved in growths.items():
        if moved is not None and moved > most:
            yield name, f"its edge risk grew by {moved:.4g}, more than {most:g}"
        elif moved is not None and moved < -least:
            yield name, f"its edge risk fell by {-moved:.4g}, more than {least:g}"
