"""Slices: several named texts in one report, and the part of the measurements that belongs to each.

Every window of a report with slices names its slice. A report on a single unnamed text has no slices.

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
    """Return the names of the slices of ``final`` or ``preview`` windows, in order; empty without slices."""
    return tuple(dict.fromkeys(part.get("slices", ())))


def places(part: Block, name: str) -> list[int]:
    """Return the indices of a slice's windows."""
    return [index for index, own in enumerate(part["slices"]) if own == name]


def chosen(values: Sequence[Any], wanted: Sequence[int]) -> list[Any]:
    """Return the values at some indices."""
    return [values[index] for index in wanted]


def of_slice(windows: Mapping[str, Block], name: str) -> dict[str, dict[str, Any]]:
    """Return the ``evaluation_windows`` of one slice, without slice names."""
    found = {}
    for part, block in windows.items():
        wanted = places(block, name)
        found[part] = {key: chosen(values, wanted) for key, values in block.items() if key != "slices"}
    return found


def text_mistakes(dataset: Block, windows: Mapping[str, Block]) -> Iterator[tuple[str, str]]:
    """Yield contradictions between a text, its slices and its windows: the field, and what is wrong.

    Args:
        dataset: the ``dataset`` of a report or a null run.
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
    """Return the block that a detector reads: a metric's block, or that of the slice that the detector names."""
    name = detector.get("slice")
    found: Block = block if name is None else block.get("slices", {}).get(name, {})
    return found


def by_slice(block: Block, key: str, fact: str) -> dict[str, Any]:
    """Return a value of each slice under the name of a fact; empty for a single text."""
    found = {name: row[key] for name, row in block.get("slices", {}).items()}
    return {fact: found} if found else {}


def limits_of(limits: Block, name: str) -> dict[str, Any]:
    """Return a metric's limits for one slice: the slice's own if the policy has them, else the general ones."""
    return {**limits, **limits["slices"].get(name, {})}


def in_every_slice(block: Block, limits: Block, gates_of: Callable[[Block, Block], list[Gate]]) -> list[Gate]:
    """Return a block's gates; each holds only if it holds over all windows and in every slice.

    Args:
        block: the metric's block; ``slices`` has the block of each slice, by name.
        limits: the metric's limits.
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
    """Return for each limit the largest used share: over all windows, or in the slice that uses most."""
    found = [shares_of(block, limits)]
    found += [shares_of(row, limits_of(limits, name)) for name, row in block.get("slices", {}).items()]
    return {name: largest_share([shares[name] for shares in found if name in shares]) for name in found[0]}
