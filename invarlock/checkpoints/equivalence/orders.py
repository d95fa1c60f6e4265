"""The third symmetry: hidden units, the heads of a group, and experts may be in another order."""

from __future__ import annotations

import torch

from invarlock.checkpoints.equivalence.anatomy import Attention, Experts, FeedForward, Rows, Site
from invarlock.checkpoints.equivalence.sides import BIAS, Sides
from invarlock.checkpoints.equivalence.steps import Permute, Step

# A row whose cosine with the baseline's row in the same place is at least this is in place; 4-bit rounding leaves 0.99.
IN_PLACE = 0.95
# Up to this many rows, all are compared with all as soon as one is not in place, since router rows are very similar.
FEW_ROWS = 256
# A row is found in another place if its cosine with the row there is at least this.
FOUND = 0.7
# At least this share of the rows that are out of place must be found.
LEAST_FOUND = 0.5
# Rows are compared in this many random directions, enough to distinguish thousands, and in slices of this many rows.
DIRECTIONS = 256
SLICE_ROWS = 2048
SEED = 0x5BEC


def find_order(base: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """Return for each row of ``base`` the index of its row in ``own``; None if all are in place, or too few are found.

    Rows that are not found fill the remaining places in their order.

    Args:
        base: shape (rows, columns).
        own: same shape.
    """
    base, own = _unit(base), _unit(own)
    apart = (base * own).sum(dim=1) < IN_PLACE
    if int(apart.sum()) < 2:
        return None
    if int(apart.sum()) > len(base) // 2 or len(base) <= FEW_ROWS:
        apart = torch.ones_like(apart)  # some rows may resemble the row in their place by chance
    places = apart.nonzero().flatten()
    best, where = _nearest(base[places], own[places])
    order = torch.arange(len(base))
    taken: set[int] = set()
    found: dict[int, int] = {}
    for row in best.argsort(descending=True).tolist():
        column = int(where[row])
        if float(best[row]) >= FOUND and column not in taken:
            found[row] = column
            taken.add(column)
    if len(found) < LEAST_FOUND * len(places) or all(row == column for row, column in found.items()):
        return None
    rest = iter(column for column in range(len(places)) if column not in taken)
    columns = [found[row] if row in found else next(rest) for row in range(len(places))]
    order[places] = places[torch.tensor(columns)]
    return order


def order_experts(sides: Sides, experts: Experts) -> Sides:
    """Return both sides with the subject's experts numbered like the baseline's, by their rows of the router."""
    sites = [site for member in experts.members for site in _sites(member)]
    if not sides.has(experts.router, *sites) or sides.same(experts.router):
        return sides
    order = find_order(*sides.pair(experts.router))
    if order is None or len(order) != len(experts.members):
        return sides
    sources = dict(sides.own_sources)
    for member, number in zip(experts.members, order.tolist(), strict=True):
        sources |= zip(_sites(member), _sites(experts.members[number]), strict=True)
    ordered = sides.with_own_sources(sources).with_steps({experts.router: (Permute("outputs", order),)})
    return ordered.remove("experts", [experts.router.label], _moved(order))


def order_units(sides: Sides, ffn: FeedForward) -> Sides:
    """Return both sides with the subject's hidden units in the baseline's order."""
    # the gate is used for matching because its rows cannot be scaled
    rows = ffn.gate or ffn.up
    if not sides.has(*_sites(ffn)) or sides.same(rows.site):
        return sides
    order = find_order(*sides.pair_of_rows(rows))
    if order is None:
        return sides
    steps: dict[Site, tuple[Step, ...]] = {ffn.down: (Permute("inputs", order),)}
    for moved in (ffn.gate, ffn.up):
        if moved is not None:
            steps[moved.site] = (*steps.get(moved.site, ()), _of_rows(sides, moved, moved.index[order]))
    if not sides.biases_follow(steps):
        return sides.skip("units", BIAS)
    return sides.with_steps(steps).remove("units", [ffn.down.label], _moved(order))


def order_heads(sides: Sides, attention: Attention) -> Sides:
    """Return both sides with the subject's heads, and groups of heads, in the baseline's order."""
    query, key, value = attention.query, attention.key, attention.value
    if not sides.has(query.site, key.site, value.site, attention.output) or sides.same(query.site, key.site):
        return sides
    groups, heads = len(key.index), len(query.index)
    keys = find_order(*(side.flatten(1) for side in sides.pair_of_rows(key)))
    base, own = (side.flatten(1) for side in sides.pair_of_rows(query))
    places = torch.arange(heads).view(groups, -1)
    places = places[torch.arange(groups) if keys is None else keys]  # (groups, heads of a group) of the subject
    order = torch.cat(
        [
            members if (inner := find_order(base[members_of], own[members])) is None else members[inner]
            for members_of, members in zip(torch.arange(heads).view(groups, -1), places, strict=True)
        ]
    )
    moved = _moved(order)
    if not moved:
        return sides
    steps: dict[Site, tuple[Step, ...]] = {}
    kept = torch.arange(groups) if keys is None else keys
    for rows, chosen in ((query, order), (key, kept), (value, kept)):
        steps[rows.site] = (*steps.get(rows.site, ()), _of_rows(sides, rows, rows.index[chosen]))
    inputs = torch.arange(heads * query.index.shape[1]).view(heads, -1)
    steps[attention.output] = (Permute("inputs", inputs[order].flatten()),)
    # values may also be rotated within their heads, unless the matrix holds queries and keys too
    turned = None if value.site in (query.site, key.site) else value
    if not sides.biases_follow(steps, turned):
        return sides.skip("heads", BIAS)
    return sides.with_steps(steps).remove("heads", [attention.output.label], moved)


def _of_rows(sides: Sides, rows: Rows, taken: torch.Tensor) -> Permute:
    """Return the permutation of a whole matrix that permutes some of its rows."""
    order = torch.arange(sides.outputs(rows.site))
    order[rows.index.flatten()] = taken.flatten()
    return Permute("outputs", order)


def _sites(ffn: FeedForward) -> tuple[Site, ...]:
    gate = () if ffn.gate is None else (ffn.gate.site,)
    return (*gate, ffn.up.site, ffn.down)


def _moved(order: torch.Tensor) -> int:
    return int((order != torch.arange(len(order))).sum())


def _unit(rows: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp_min(torch.finfo(torch.float32).tiny)


def _nearest(base: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosine of each row of ``base`` with the nearest row of ``own``, and that row's index."""
    short, shorter = base, own
    if base.shape[1] > DIRECTIONS:
        directions = torch.randn(base.shape[1], DIRECTIONS, generator=torch.Generator().manual_seed(SEED)).to(base)
        short, shorter = _unit(base @ directions), _unit(own @ directions)
    parts = [short[first : first + SLICE_ROWS] for first in range(0, len(short), SLICE_ROWS)]
    where = torch.cat([(part @ shorter.mT).argmax(dim=1) for part in parts])
    return (base * own[where]).sum(dim=1), where
