"""What the rmt guard compares with its limits: how much the edge risks of a family and of each layer changed.

A family is judged by what more than half of its layers moved by, and each layer by itself. The largest edge
risk of a family says little: that of SmolLM2's FFNs is one layer's massive activation, which pruning 8 % of the
weights lowers by 11 % without harm, and that of its attention is a layer of the first block, which nothing behind it
moves. Reports measured under the first contract are judged by the largest, as they were when they were made.
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
# A family's limit in epsilons, which null changes keep to; edits may move it further. On four models harmless edits,
# merges of fine-tunes included, move more than half of a family's layers by at most 1.8 %; an epsilon is 1 %.
EPSILONS = 3
# A single layer may grow to twice its edge risk, or fall to half. Harmless edits of the same models raise one by at
# most 66 % (attention of one block, reduced to rank 64 of 576) and lower it by at most 34 %. Most layers of rank 1 more
# than double, and one of zeros has none (docs/evidence.md).
LAYER_GROWTH, LAYER_FALL = 1.0, 0.5


class FamilyGrowth(TypedDict):
    """Of the first contract: the largest edge risk of a family on both sides, its growth, and the limit of it."""

    modules: int
    baseline: float | None
    subject: float | None
    growth: float | None
    epsilon: float


class FamilyChange(TypedDict):
    """What more than half of a family's layers moved by, its limit, and the extremes of its layers."""

    modules: int
    change: float | None
    limit: float | None
    largest_growth: float | None
    largest_fall: float | None


Families = Mapping[str, FamilyGrowth | FamilyChange]


def growth(before: float | None, after: float | None) -> float | None:
    """Return subject / baseline - 1 of an edge risk, None if it is not known."""
    if before is None or after is None:
        return None
    # a layer whose every feature is constant has no edge risk; that is a fall, or nothing
    return rounded(after / before - 1.0) if before > 0 else (0.0 if after == 0 else None)


def is_judged_by_largest(raw: Block) -> bool:
    """Return whether a raw part was measured under the first contract."""
    return bool(raw["baseline"]["measurement_contract_hash"] == FIRST_CONTRACT)


def derive_families(raw: Block, policy: Block) -> Families:
    """Return the row of each family of the baseline, in the form of the contract that the raw part was measured under.

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
    """Return what is compared with the limit of a family's epsilon."""
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
