"""The presets of a pack as tables: the values measured on harmless changes, and what was learned from them.

Most learned values are limits. The null scale of ``spectral`` is none: it is the unit of z, in which a change of a norm
is expressed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from invarlock.packer.format import layout

from invarlock.pages.document import link
from invarlock.pages.markup import Markup, element, join
from invarlock.pages.numbers import change_text, share_text
from invarlock.pages.parts import counted, data_table, number_cell, number_words
from invarlock.reports.policy import LEARNED_LIMITS
from invarlock.reports.preset_files import preset_name

# A preset has a level for each matrix of its model; there are only a few families.
MAX_LEVELS = 12
# The statistics from which values are learned: their keys in a derived block, and their names.
STATISTICS = (
    ("quantile", "97.5 % quantile"),
    ("scale", "1.4826 × median absolute deviation"),
    ("sigma", "standard deviation"),
)
POLICY_NAMES = {learned.block: learned.limit for learned in LEARNED_LIMITS}


def presets_section(presets: Mapping[str, Mapping[str, Any]], paths: Collection[str]) -> Iterator[Markup]:
    """Yield the presets of a pack: their null runs, what these measured, and what was learned from it."""
    yield element("h2", "Presets: what harmless changes cause")
    if not presets:
        yield element("p", "None: the limits are those of the tier.", class_="soft")
        return
    yield element(
        "p",
        "Values of the policy were learned for each model from null runs, which compare the model with harmless "
        "changes of itself. What a real edit causes is judged with these values.",
        class_="soft",
    )
    for folder, preset in sorted(presets.items()):
        path = f"{layout.PRESETS}{preset_name(folder)}"
        runs = counted(len(preset["null_runs"]), "null run")
        name = link(path, preset["model_id"]) if path in paths else preset["model_id"]
        yield element(
            "details",
            element("summary", preset["model_id"], f": {runs} learned from, 1 held out, tier {preset['tier']}"),
            element("p", "Preset ", name, f"; changes: {', '.join(preset['changes'])}"),
            *_levels(preset["derivation"]),
        )


def _levels(derivation: Mapping[str, Any]) -> Iterator[Markup]:
    # for a metric without a single limit, "limit" maps each harmless change to its levels
    by_change = {name: block["limit"] for name, block in derivation.items() if isinstance(block.get("limit"), Mapping)}
    for _, measured in sorted(by_change.items()):
        changes = [
            (
                name,
                number_cell(null.get("kl_mean")),
                number_words(share_text(null.get("same_top_share"))),
                number_cell(null.get("kl_p999")),
            )
            for name, null in sorted(measured.items())
        ]
        yield data_table(
            ("harmless change", "divergence (KL), mean", "same top token", "99.9 % quantile of KL"), changes
        )
    rows = [row for block in sorted(derivation) if block not in by_change for row in _block(block, derivation[block])]
    yield data_table(("value in the policy", "learned from", "measured", "learned value"), rows)


def _block(name: str, block: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of one derived block: for the whole model, or for each family or module."""
    shown = element("code", POLICY_NAMES.get(name, name))
    if "null_band" in block:
        low, high = (change_text(end) for end in block["null_band"])
        band = number_words(" to ".join(map(change_text, block["limit"])))
        if block["n"]:
            yield shown, "97.5 % quantile of drifts", number_words(f"{low} to {high}"), band
        else:
            yield shown, "the tier, since no drift was measured", number_cell(None), band
    elif "limit" in block:
        key, words = next((row for row in STATISTICS if row[0] in block), ("", ""))
        yield shown, words, number_cell(block.get(key)), number_cell(block["limit"])
    else:
        parts = {key: value for key, value in sorted(block.items()) if isinstance(value, Mapping)}
        for key, value in list(parts.items())[:MAX_LEVELS]:
            for row in _block(key, value):
                yield join((shown, " ", element("code", key))), *row[1:]
        if len(parts) > MAX_LEVELS:
            more = join((shown, f": {len(parts) - MAX_LEVELS} more in the preset"))
            yield more, "", number_words(""), number_words("")
