"""The section of a report's page about the metric perplexity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.judgement.slices import limits_of
from invarlock.pages.figures import interval_figure
from invarlock.pages.markup import Markup, element
from invarlock.pages.numbers import change_text
from invarlock.pages.parts import data_table, number_cell, number_text

Block = Mapping[str, Any]


def summary(report: Block) -> Iterator[str]:
    """Yield the change of perplexity with its interval and limit, as one line."""
    metric, limits = report["primary_metric"], report["resolved_policy"]["primary_metric"]
    ratio, interval = metric["ratio_vs_baseline"], metric["ci"]
    if ratio is None or interval is None or None in interval:
        yield f"perplexity: no ratio ({metric['reason']})"
        return
    low, high = map(change_text, interval)
    yield f"{change_text(ratio)} perplexity ({low} to {high}), limit {change_text(limits['ratio_limit'])}"


def page_section(report: Block) -> Iterator[Markup]:
    """Yield the ratio with its interval and limit, and a table of the slices."""
    metric, limits = report["primary_metric"], report["resolved_policy"]["primary_metric"]
    ratio, interval, limit = metric["ratio_vs_baseline"], metric["ci"], limits["ratio_limit"]
    yield element("h2", "Perplexity of the subject, relative to the baseline")
    if ratio is None or interval is None or None in interval:
        yield element("p", "no ratio", class_="figure")
        yield element("p", metric["reason"] or "")
        yield from _slices_table(metric, limits)
        return
    low, high = interval
    level = f"{100 * (1 - limits['alpha']):g} %"
    yield element("p", change_text(ratio), class_="figure")
    yield element(
        "p",
        f"{level} interval {change_text(low)} to {change_text(high)}, limit {change_text(limit)}; "
        f"perplexity of the baseline {number_text(metric['baseline_final'])}, of the subject "
        f"{number_text(metric['final'])}",
    )
    yield element(
        "figure",
        interval_figure(ratio, low, high, limit),
        element(
            "figcaption",
            f"change of perplexity, paired on the final windows; interval by {metric['interval_method']}, "
            f"{limits['replicates']} replicates{', all windows alike' if metric['degenerate'] else ''}",
        ),
    )
    yield from _slices_table(metric, limits)


def _slices_table(metric: Block, limits: Block) -> Iterator[Markup]:
    """Yield a table with a row for each slice, and nothing for a single unnamed text."""
    rows = []
    for name, row in sorted(metric.get("slices", {}).items()):
        low, high = row["ci"] or (None, None)
        numbers = (row["windows"], row["baseline_final"], row["final"], row["ratio_vs_baseline"], low, high)
        rows.append([name, *map(number_cell, numbers), number_cell(limits_of(limits, name)["ratio_limit"])])
    if rows:
        yield element("h3", "Perplexity by slice")
        heads = ("slice", "windows", "baseline", "subject", "ratio", "from", "to", "limit")
        yield data_table(heads, rows)
