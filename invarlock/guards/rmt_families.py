"""The numbers that the rmt guard compares with its limits: how far edge risks changed, by family and by layer.

A family is judged by the change that more than half of its layers reach, and each layer by its own change. The largest
edge risk of a family is a poor measure: in SmolLM2's FFNs it comes from one layer's massive activation, which pruning
8 % of the weights lowers by 11 % without harm; in its attention it comes from a layer of the first block, which changes
in later blocks do not affect. Reports of the first contract are still judged by the largest, as when they were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median_low
from typing import Any, TypedDict

from invarlock.statistics.rounding import rounded

Block = Mapping[str, Any]
Modules = Mapping[str, Block]

# The measurement contract of reports whose families are judged by their largest edge risk.
FIRST_CONTRACT = "2627387952809863"
# A family's limit in epsilons. Null changes stay within one epsilon; edits may move a family further. On four models,
# harmless edits, including merges of fine-tunes, move more than half of a family's layers by at most 1.8 %; an epsilon
# is 1 %.
EPSILONS = 3
# A single layer's edge risk may at most double or halve. Harmless edits of the same models raise it by at most 66 %
# (attention of one block, reduced to rank 64 of 576) and lower it by at most 34 %. It more than doubles in most layers
# of rank 1, and layers of zeros have none (docs/evidence.md).
LAYER_GROWTH, LAYER_FALL = 1.0, 0.5


class FamilyGrowth(TypedDict):
    """Under the first contract: the largest edge risk of a family on both sides, its growth, and the limit."""

    modules: int
    baseline: float | None
    subject: float | None
    growth: float | None
    epsilon: float


class FamilyChange(TypedDict):
    """The change that more than half of a family's layers reach, its limit, and the extremes of its layers."""

    modules: int
    change: float | None
    limit: float | None
    largest_growth: float | None
    largest_fall: float | None


Families = Mapping[str, FamilyGrowth | FamilyChange]


def growth(before: float | None, after: float | None) -> float | None:
    """Return subject / baseline - 1 of an edge risk; None if it is not known."""
    if before is None or after is None:
        return None
    # a layer with only constant features has an edge risk of 0: a fall by 100 %, or no change if both have none
    return rounded(after / before - 1.0) if before > 0 else (0.0 if after == 0 else None)


def is_judged_by_largest(raw: Block) -> bool:
    """Return whether a raw part was measured under the first contract."""
    return bool(raw["baseline"]["measurement_contract_hash"] == FIRST_CONTRACT)


def derive_families(raw: Block, policy: Block) -> Families:
    """Return the row of each family of the baseline, in the form of the raw part's measurement contract.

    Args:
        raw: ``baseline`` and ``subject``, as for ``derive_rmt``.
        policy: the ``rmt`` limits.
    """
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    derive = _by_largest if is_judged_by_largest(raw) else _by_most_layers
    own = policy.get("epsilon_by_family", {})
    families: dict[str, FamilyGrowth | FamilyChange] = {}
    for family in sorted({row["family"] for row in before.values()}):
        names = [name for name, row in before.items() if row["family"] == family and name in after]
        pairs = [(before[name]["edge_risk"], after[name]["edge_risk"]) for name in names]
        measured = [(first, second) for first, second in pairs if first is not None and second is not None]
        families[family] = derive(len(names), measured, own.get(family, policy["epsilon"]))
    return families


def family_level(row: Block) -> float | None:
    """Return the value that is compared with the limit of a family's epsilon."""
    level: float | None = row["change"] if "change" in row else row["growth"]
    return level


def family_limit(row: Block) -> float:
    """Return the limit of a family that follows from its epsilon."""
    limit: float = row["limit"] if "limit" in row else row["epsilon"]
    return limit


def epsilon_needed(row: Block) -> float | None:
    """Return the smallest epsilon with which a family of a report passes."""
    level = family_level(row)
    return level if level is None or "change" not in row else rounded(level / EPSILONS)


def families_beyond(families: Mapping[str, Block], policy: Block) -> Iterator[tuple[str, str]]:
    """Yield each family beyond its limit, with the reason."""
    for family, row in families.items():
        level = family_level(row)
        if level is None:
            continue
        if "change" in row:
            if level > row["limit"]:
                yield family, f"more than half of its edge risks moved by {level:.4g}, limit {row['limit']:g}"
        elif level > row["epsilon"]:
            yield family, f"its largest edge risk grew by {level:.4g}, limit {row['epsilon']:g}"
        elif level < -policy["max_fall"]:
            yield family, f"its largest edge risk fell by {-level:.4g}, limit {policy['max_fall']:g}"


def layers_beyond(growths: Mapping[str, float | None], most: float, least: float) -> Iterator[tuple[str, str]]:
    """Yield each layer whose edge risk grew by more than ``most`` or fell by more than ``least``, with the reason."""
    for name, moved in growths.items():
        if moved is not None and moved > most:
            yield name, f"its edge risk grew by {moved:.4g}, limit {most:g}"
        elif moved is not None and moved < -least:
            yield name, f"its edge risk fell by {-moved:.4g}, limit {least:g}"


def _by_most_layers(modules: int, pairs: Sequence[tuple[float, float]], epsilon: float) -> FamilyChange:
    growths = [moved for moved in (growth(*pair) for pair in pairs) if moved is not None]
    return {
        "modules": modules,
        "change": median_low(abs(moved) for moved in growths) if growths else None,
        "limit": rounded(EPSILONS * epsilon),
        "largest_growth": max(growths, default=None),
        "largest_fall": min(growths, default=None),
    }


def _by_largest(modules: int, pairs: Sequence[tuple[float, float]], epsilon: float) -> FamilyGrowth:
    largest = max((first for first, _ in pairs), default=None)
    grown = max((second for _, second in pairs), default=None)
    return {
        "modules": modules,
        "baseline": largest,
        "subject": grown,
        "growth": growth(largest, grown),
        "epsilon": epsilon,
    }
