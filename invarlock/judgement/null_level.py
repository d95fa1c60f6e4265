"""Judges whether a subject answers like its baseline, up to the differences that harmless changes cause in any model.

Very different weights may compute the same function. At the null level, a guard on weights that found no reason for the
difference therefore warns instead of failing. The level comes from the model's preset, and is at least that of the
embedded models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Block = Mapping[str, Any]

# Twice the effect of harmless changes on the embedded models (docs/metrics.md); the longest tail is that of a mixture
# of experts.
KL, SAME_TOP, TAIL = 0.0005, 0.98, 0.02
# The text that a guard on weights adds to a warning that would otherwise be a failure.
SAME_ANSWERS = (
    "the subject answers like its baseline: it computes the same function in another form, or its harm does not show "
    "on this text"
)


def is_at_null_level(fidelity: Block | None, learned: Mapping[str, Block] | None) -> bool:
    """Return whether the divergence is at the null level over all windows and in every slice.

    Args:
        fidelity: the report's block, or None; nothing is known before it is judged.
        learned: the policy's ``fidelity.null_level``, the level of each harmless change; None without a preset.
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
