"""Slices: several texts in one report, each with a name, and the part of the measurements that is of each.

Every window of a report with slices names its slice. A report of one text without a name has none.

Example::

    names(windows["final"])                          # ("prose", "code")
    of_slice(windows, "code")["final"]["logloss"]    # the losses of the windows of that text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, groupby
from typing import Any

from invarlock.judgement.gate import Gate
from invarlock.judgement.shares import Shares, largest_share

Block = Mapping[str, Any]


def names(part: Block) -> tuple[str, ...]:
    """Return the names of the slices of ``final`` or ``preview`` windows in their order; none without slices."""
    return tuple(dict.fromkeys(part.get("slices", ())))


def places(part: Block, name: str) -> list[int]:
    """Return the numbers of the windows of a slice."""
    return [index for index, own in enumerate(part["slices"]) if own == name]


def chosen(values: Sequence[Any], wanted: Sequence[int]) -> list[Any]:
    """Return the values at some places."""
    return [values[index] for index in wanted]


def of_slice(windows: Mapping[str, Block], name: str) -> dict[str, dict[str, Any]]:
    """Return ``evaluation_windows`` of one slice, which then has no slices."""
    found = {}
    for part, block in windows.items():
        wanted = places(block, name)
        found[part] = {key: chosen(values, wanted) for key, values in block.items() if key != "slices"}
    return found


def text_mistakes(dataset: Block, windows: Mapping[str, Block]) -> Iterator[tuple[str, str]]:
    """Yield where a text, its slices and its windows contradict each other: the field, and what is wrong.

    Args:
        dataset: of a report or a null run.
        windows: ``preview`` and ``final`` windows, each with its slice and its number of predicted tokens.
    """
    rows = dataset.get("slices", ())
    if len({row["name"] for row in rows}) < len(rows):
        yield "dataset.slices", "a name is given twice"
        return
    if rows and rows[0]["seq_len"] != dataset["seq_len"]:
        yield "dataset.seq_len", "not that of the first slice"
    lengths = {row["name"]: row["seq_len"] for row in rows}
    for part, block in windows.items():
        if rows and dataset["windows"][part] != sum(row["windows"][part] for row in rows):
            yield f"dataset.windows.{part}", "not those of the slices together"
        found = [(name, sum(1 for _ in own)) for name, own in groupby(block.get("slices", ()))]
        if found != [(row["name"], row["windows"][part]) for row in rows]:
            yield f"windows.{part}.slices", "not the slices of the texts in their order"
            continue
        wanted = [lengths[name] - 1 for name in block["slices"]] if rows else [dataset["seq_len"] - 1]
        if any(count != length for count, length in zip(block["token_counts"], cycle(wanted), strict=False)):
            numbers = " or ".join(str(length) for length in sorted({*wanted}))
            yield f"windows.{part}.token_counts", f"every window has {numbers} predicted tokens"


def detected_in(block: Block, detector: Block) -> Block:
    """Return what a detector looks at: the block of a metric, or that of the slice that the detector names."""
    name = detector.get("slice")
    found: Block = block if name is None else block.get("slices", {}).get(name, {})
    return found


def by_slice(block: Block, key: str, fact: str) -> dict[str, Any]:
    """Return a value of each slice under the name of a fact, nothing for one text."""
    found = {name: row[key] for name, row in block.get("slices", {}).items()}
    return {fact: found} if found else {}


def limits_of(limits: Block, name: str) -> dict[str, Any]:
    """Return the limits of a metric for one slice: its own where the policy has them, else those of the whole."""
    return {**limits, **limits["slices"].get(name, {})}


def in_every_slice(block: Block, limits: Block, gates_of: Callable[[Block, Block], list[Gate]]) -> list[Gate]:
    """Return the gates of a block, each of which holds where it holds over all windows and in every slice.

    Args:
        block: of a metric; ``slices`` has that of each slice, by name.
        limits: of the metric.
        gates_of: returns the gates of a block, given its limits.
    """
    own = {name: gates_of(row, limits_of(limits, name)) for name, row in block.get("slices", {}).items()}
    gates = []
    for gate in gates_of(block, limits):
        broken = [
            f"in slice {name}: {part.measured}" + ("" if part.limit == gate.limit else f", limit {part.limit}")
            for name, parts in own.items()
            for part in parts
            if part.flag == gate.flag and not part.holds
        ]
        measured = "; ".join((gate.measured, *broken))
        gates.append(replace(gate, measured=measured, holds=gate.holds and not broken) if broken else gate)
    return gates


def largest_shares(block: Block, limits: Block, shares_of: Callable[[Block, Block], Shares]) -> Shares:
    """Return the share of each limit that is used over all windows or in the slice that uses most."""
    found = [shares_of(block, limits)]
    found += [shares_of(row, limits_of(limits, name)) for name, row in block.get("slices", {}).items()]
    return {name: largest_share([shares[name] for shares in found if name in shares]) for name in found[0]}
