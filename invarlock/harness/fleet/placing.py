"""How many pieces a cluster gets at a time, how long they are, and on which of its nodes they run.

Ray and Slurm know how many GPUs a node has, and not which model fits in their memory. Nodes on which the models of a
run need equally many GPUs are a lot; each piece is submitted for the nodes of one lot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from invarlock.harness.fleet.cluster import Cluster, Need
from invarlock.harness.fleet.pieces import Piece, PieceQueue

# Pieces become shorter towards the end, so that all nodes finish together: what is left is cut into about so many
# pieces for each that can run at once.
PIECES_LEFT = 3
# While pieces have their full length, submitted before there is room, as a share of what runs: the next piece begins at
# once, and an autoscaler sees what waits.
AHEAD = 0.25
# Of sums of shares.
ROUNDING = 1e-9


@dataclass
class Lot:
    """Nodes that are alike for the models of a run.

    Attributes:
        needs: what a piece of each model needs, by the model's id; models that do not fit are absent.
        excess: by model, how many times as many GPUs it needs here as on the nodes that suit it best.
        submitted: of each piece that did not end, by its number, its share of the lot.
    """

    needs: Mapping[str, Need]
    excess: Mapping[str, float]
    submitted: dict[int, float] = field(default_factory=dict)


def make_lots(kinds: Sequence[Mapping[str, Need]]) -> list[Lot]:
    """Return the lots of a cluster, from what each model needs on each kind of node.

    Those with larger GPUs are last: they are kept for the models that need them, as far as the others are enough.
    """
    least = {model: min(one[model].gpus for one in kinds if model in one) for kind in kinds for model in kind}
    found = [
        Lot(kind, {model: need.gpus / least[model] if least[model] else 1.0 for model, need in kind.items()})
        for kind in kinds
    ]
    return sorted(found, key=lambda lot: (len(lot.needs), -sum(lot.excess.values())))


class Placing:
    """Submits the pieces of a queue as the lots of a cluster have room for them."""

    def __init__(self, queue: PieceQueue, cluster: Cluster, lots: Sequence[Lot], piece_seconds: float) -> None:
        self._queue, self._cluster, self._lots, self._longest = queue, cluster, lots, piece_seconds
        self._slots: dict[Need, int | None] = {}

    def fill(self, submit: Callable[[Piece, Need], None]) -> None:
        """Submit pieces until every lot is full, or nothing is left that may begin."""
        self._slots = {need: self._cluster.slots(need) for lot in self._lots for need in lot.needs.values()}
        # models get the lots that suit them best, and then what is left of the others
        for most in (1.0, math.inf):
            for lot in self._lots:
                models = [model for model, excess in lot.excess.items() if excess <= most]
                while self._has_room(lot) and (piece := self._queue.take(self._piece_seconds(), models)) is not None:
                    need = lot.needs[piece.model.id]
                    lot.submitted[piece.number] = self._share(need)
                    submit(piece, need)
        self._cluster.flush()

    def replace_lots(self, lots: Sequence[Lot]) -> None:
        """Use other lots from now on, since nodes joined; those of the same kinds keep what was submitted for them."""
        for lot in lots:
            for old in self._lots:
                if old.excess == lot.excess:
                    lot.submitted.update(old.submitted)
        self._lots = lots

    def ended(self, number: int) -> None:
        """Free the room of a piece that ended."""
        for lot in self._lots:
            lot.submitted.pop(number, None)

    def is_without_room(self) -> bool:
        """Return whether no node has room for a case of the run, as of the last time that pieces were submitted."""
        return not any(slots != 0 for slots in self._slots.values())

    def _has_room(self, lot: Lot) -> bool:
        # a baseline that is being measured may be that of the longest pieces, which then come next
        early = AHEAD if not self._queue.waits_for_baselines and self._piece_seconds() == self._longest else 0.0
        if len(self._lots) > 1 and not any(self._slots[need] for need in lot.needs.values()):
            # its nodes are lost
            return False
        return sum(lot.submitted.values()) < 1.0 + early - ROUNDING

    def _share(self, need: Need) -> float:
        """Return the share of a lot that a piece takes: 0.0 if the cluster's queue takes all pieces at once."""
        slots = self._slots[need]
        return 0.0 if slots is None else 1 / max(1, slots)

    def _piece_seconds(self) -> float:
        """Return how long the next piece shall take, so that all nodes have something to do until the end."""
        left = ready = 0.0
        for model, work in self._queue.work().items():
            shares = [self._share(lot.needs[model]) for lot in self._lots if model in lot.needs]
            if not all(shares):
                return self._longest
            seconds = work / max(1.0, sum(1 / share for share in shares))
            left += seconds
            ready += seconds if self._queue.is_measured(model) else 0.0
        # while baselines are measured, all nodes live on the cases of the other models
        between = ready if ready and self._queue.waits_for_baselines else math.inf
        return min(self._longest, left / PIECES_LEFT, between)
