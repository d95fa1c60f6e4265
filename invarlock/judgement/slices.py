"""Slices: several texts in one report, each with a name, and the part of the measurements that is of each.

Every window of a report with slices names its slice. A report of one text without a name has none.

Example::

    names(windows["final"])                          # ("prose", "code")
    of_slice(windows, "code")["final"]["logloss"]    # the losses of the windows of that text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
            f"in slice {name}: {part.measured}, limit {part.limit}"
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
