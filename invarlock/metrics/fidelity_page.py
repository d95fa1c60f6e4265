"""The section of a report's page about the metric ``fidelity``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invarlock.judgement.slices import limits_of
from invarlock.pages.markup import Markup, element
from invarlock.pages.numbers import share_text
from invarlock.pages.parts import data_table, definition_list, number_cell, number_text

Block = Mapping[str, Any]


def summary(report: Block) -> Iterator[str]:
    """Yield the mean divergence and the share of the same top token, with their limits if they are gates."""
    block, limits = report["fidelity"], report["resolved_policy"]["fidelity"]
    if block["invalid"]:
        return
    kl, same = (
        f", limit {number_text(limits['kl_limit'])}",
        f", at least {share_text(limits['same_top_limit'])} required",
    )
    if limits["intent"] == "change":
        kl = same = ""
    yield f"divergence (KL) {number_text(block['kl_mean'])} nats a token{kl}"
    yield f"same top token at {share_text(block['same_top_share'])} of positions{same}"


def page_section(report: Block) -> Iterator[Markup]:
    """Yield the metric's numbers, the windows they come from, and the null levels next to the limits."""
    block, limits = report["fidelity"], report["resolved_policy"]["fidelity"]
    yield element("h2", "Fidelity: does the subject answer as the baseline does?")
    if limits["intent"] == "change":
        yield element("p", "The subject is meant to answer differently: fidelity is reported and has no gate.")
    if block["invalid"]:
        yield element("p", f"not measured: {block['reason']}")
        return
    level = f"{100 * (1 - report['resolved_policy']['primary_metric']['alpha']):g} %"
    yield definition_list(
        {
            "divergence (KL), mean": f"{number_text(block['kl_mean'])} nats a token, {level} interval "
            f"{_interval(block['kl_mean_ci'])}, limit {number_text(limits['kl_limit'])}",
            "divergence, quantiles": f"50 %: {number_text(block['kl_p50'])}, 90 %: {number_text(block['kl_p90'])}, "
            f"99 %: {number_text(block['kl_p99'])}, 99.9 %: {number_text(block['kl_p999'])} "
            f"(limit {number_text(limits['tail_limit'])}), largest {number_text(block['kl_max'])}; upper edges of "
            "the histogram's bins",
            "same top token": f"{share_text(block['same_top_share'])} of positions, {level} interval "
            f"{_interval(block['same_top_ci'], percent=True)}, at least "
            f"{share_text(limits['same_top_limit'])} required",
            "confident flips": None
            if block["confident_flip_share"] is None
            else f"{share_text(block['confident_flip_share'])} of positions where the baseline gives its top token "
            f"50 % or more, {level} interval {_interval(block['confident_flip_ci'], percent=True)}",
            "probability of the text's token": f"changes by {number_text(block['delta_p_rms'])} (root mean square)",
            "compared": _compared(block),
        }
    )
    rows = [
        (
            name,
            *map(number_cell, (row["kl_mean"], *(row["kl_mean_ci"] or (None, None)), row["kl_p999"])),
            "–" if row["same_top_share"] is None else share_text(row["same_top_share"]),
            number_cell(limits_of(limits, name)["kl_limit"]),
        )
        for name, row in sorted(block.get("slices", {}).items())
    ]
    if rows:
        yield element("h3", "Fidelity by slice")
        yield data_table(("slice", "mean KL", "from", "to", "99.9 % quantile of KL", "same top token", "limit"), rows)
    if limits["null_level"] is not None:
        rows = [
            (label, number_text(level["kl_mean"]), share_text(level["same_top_share"]), number_text(level["kl_p999"]))
            for name, null in sorted(limits["null_level"].items())
            for label, level in ((name, null), *_levels_of_slices(name, null))
        ]
        yield element("h3", "What harmless changes of this baseline cause")
        yield data_table(("change", "mean KL", "same top token", "99.9 % quantile of KL"), rows)


def _levels_of_slices(name: str, null: Block) -> list[tuple[str, Block]]:
    return [(f"{name}, slice {part}", level) for part, level in sorted(null.get("slices", {}).items())]


def _compared(block: Block) -> str:
    """Return which tokens were compared individually; if a server left tokens out, the divergence is a lower bound."""
    others = f"all others, {share_text(block['rest_mass'])} of the probability, count as one"
    if "compared" in block["raw"]["subject"]:
        return (
            f"the tokens that the server gave, {block['top_k']} or more at each position; {others}, and the "
            "divergence is a lower bound"
        )
    return f"the baseline's {block['top_k']} most probable tokens of {block['raw']['baseline']['vocabulary']}; {others}"


def _interval(ends: Sequence[float], *, percent: bool = False) -> str:
    low, high = (share_text(end) if percent else number_text(end) for end in ends)
    return f"{low} to {high}"
