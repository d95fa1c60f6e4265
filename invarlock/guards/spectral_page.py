"""The section of a report's page about the spectral guard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.pages.markup import Markup, element
from invarlock.pages.parts import data_table, most_changed, number_cell, number_text, pill


def page_section(block: Mapping[str, Any]) -> Iterator[Markup]:
    """Yield the matrices whose spectral norm changed most."""
    metrics, modules = block["metrics"], block["modules"]
    yield element(
        "p",
        f"{metrics['caps_applied']} of {metrics['modules']} matrices capped, {metrics['max_caps']} allowed; largest "
        f"|ln of the spectral norm's ratio| {number_text(metrics['max_abs_log_ratio'])}. z is that logarithm "
        "divided by the null scale of the family, which is its typical size under harmless changes.",
    )
    top = most_changed({module: row["log_ratio"] for module, row in modules.items()})
    yield data_table(
        ("matrix", "family", "ln ratio of norms", "ln ratio of stable ranks", "z", "cap"),
        [
            (
                element("code", module),
                modules[module]["family"],
                *map(number_cell, (modules[module][key] for key in ("log_ratio", "log_stable_rank_ratio", "z"))),
                pill("capped", "fail") if modules[module]["capped"] else "",
            )
            for module in top
        ],
        "no spectral norm changed",
    )
