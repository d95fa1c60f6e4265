"""The presets of a pack as tables: the values measured on harmless changes, and the limits derived from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from invarlock.packer.format import layout

from invarlock.pages.document import link
from invarlock.pages.markup import Markup, element, join
from invarlock.pages.numbers import change_text, share_text
from invarlock.pages.parts import counted, data_table, number_cell, number_text, number_words
from invarlock.reports.preset_files import preset_name

# A preset has a level for each matrix of its model; there are only a few families.
MAX_LEVELS = 12


def presets_section(presets: Mapping[str, Mapping[str, Any]], paths: Collection[str]) -> Iterator[Markup]:
    """Yield the presets of a pack: their null runs, their null levels and their limits."""
    yield element("h2", "Presets: what harmless changes measure")
    if not presets:
        yield element("p", "None: the limits are those of the tier.", class_="soft")
        return
    yield element(
        "p",
        "Limits were learned for each model from null runs: changes that are known to be harmless. A real edit is "
        "compared with what those measure.",
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
        yield data_table(("harmless change", "divergence (KL), mean", "same top token", "99.9 % of KL"), changes)
    rows = [row for block in sorted(derivation) if block not in by_change for row in _block(block, derivation[block])]
    yield data_table(("measured", "null level", "limit"), rows)


def _block(name: str, block: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of one derived block: a level and a limit, for the whole model or each family or module."""
    if "null_band" in block:
        low, high = (change_text(end) for end in block["null_band"])
        yield name, number_words(f"{low} to {high}"), number_words(" to ".join(map(change_text, block["limit"])))
    elif "limit" in block:
        level = next((block[key] for key in ("quantile", "largest", "sigma") if key in block), None)
        yield name, number_cell(level), number_words(number_text(block["limit"]))
    else:
        parts = {key: value for key, value in sorted(block.items()) if isinstance(value, Mapping)}
        for key, value in list(parts.items())[:MAX_LEVELS]:
            for row in _block(key, value):
                yield join((f"{name} ", element("code", key))), *row[1:]
        if len(parts) > MAX_LEVELS:
            yield f"{name}: {len(parts) - MAX_LEVELS} more in the preset", number_words(""), number_words("")
