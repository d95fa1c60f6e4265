"""Whether a subject answers as its baseline does, but for what harmless changes of any model do to its answers.

Weights may differ a lot and compute the same: a guard of weights that has found no reason why then warns and does not
fail. The level is that of the model's preset where it has one, and not less than that of the embedded models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Block = Mapping[str, Any]

# Twice what harmless changes do to the embedded models (docs/metrics.md); a mixture of experts has the longest tail.
KL, SAME_TOP, TAIL = 0.0005, 0.98, 0.02
# What a guard of weights adds where it warns of what would else fail.
SAME_ANSWERS = "the answers stay the baseline's: another form of its function, or harm that the text does not show"


def is_at_null_level(fidelity: Block | None, learned: Mapping[str, Block] | None) -> bool:
    """Return whether the divergence is at the null level over all windows and in every slice.

    Args:
        fidelity: the block of a report, None if it has none; before it is judged, nothing is known.
        learned: ``fidelity.null_level`` of the policy: the level of each harmless change, None without a preset.
    """
    if fidelity is None or "invalid" not in fidelity:
        return False
    levels = list(_levels(learned or {}))
    limit = max([KL, *(level["kl_mean"] for level in levels)])
    same = min([SAME_TOP, *(level["same_top_share"] for level in levels)])
    tail = max([TAIL, *(level["kl_p999"] for level in levels)])
    return all(
        not row["invalid"]
        and max(row["kl_mean"], row["kl_mean_ci"][1]) <= limit
        and row["same_top_share"] >= same
        and row["kl_p999"] <= tail
        for row in (fidelity, *fidelity.get("slices", {}).values())
    )


def _levels(learned: Mapping[str, Block]) -> Iterator[Block]:
    for level in learned.values():
        yield level
        yield from level.get("slices", {}).values()
