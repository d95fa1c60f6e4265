"""How many pieces a cluster gets at a time, how long they are, and on which of its nodes they run.

Ray and Slurm know how many GPUs a node has, and not which model fits in their memory. Nodes on which the models of a
run need equally many GPUs are a lot; each piece is submitted for the nodes of one lot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from invarlock.harness.fleet.cluster import Cluster, Need
from invarlock.harness.fleet.pieces import Piece, PieceQueue

# Pieces become shorter towards the end, so that all nodes finish together: a piece takes the time that is left until
# the end, divided by this number. The last ones, which are as long as a case, take all of it.
PIECES_LEFT = 2.5
# While pieces have their full length, submitted before there is room, as a share of what runs: the next piece begins at
# once, and an autoscaler sees what waits.
AHEAD = 0.25
# Of sums of shares.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Submitted:
    """A piece that did not end: its model, its share of the lot, and when it ends, as expected, by the clock."""

    model: str
    share: float
    ends: float


@dataclass
class Lot:
    """Nodes that are alike for the models of a run.

    Attributes:
        needs: what a piece of each model needs, by the model's id; models that do not fit are absent.
        excess: by model, how many times as many GPUs it needs here as on the nodes that suit it best.
        submitted: the pieces that did not end, by their numbers.
    """

    needs: Mapping[str, Need]
    excess: Mapping[str, float]
    submitted: dict[int, Submitted] = field(default_factory=dict)


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

    def __init__(
        self,
        queue: PieceQueue,
        cluster: Cluster,
        lots: Sequence[Lot],
        piece_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._cluster, self._lots, self._longest = queue, cluster, lots, piece_seconds
        self._clock = clock
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
                    ends = self._clock() + self._queue.expected_seconds(piece)
                    lot.submitted[piece.number] = Submitted(piece.model.id, self._share(need), ends)
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
        return sum(one.share for one in lot.submitted.values()) < 1.0 + early - ROUNDING

    def _share(self, need: Need) -> float:
        """Return the share of a lot that a piece takes: 0.0 if the cluster's queue takes all pieces at once."""
        slots = self._slots[need]
        return 0.0 if slots is None else 1 / max(1, slots)

    def _piece_seconds(self) -> float:
        """Return how long the next piece shall take, so that all nodes have something to do until the end.

        While baselines are measured, the nodes live on the cases of the other models: their end counts.
        """
        work = self._queue.work()
        slots = {model: self._model_slots(model) for model in work}
        if not all(slots.values()):
            return self._longest
        ready = {model: seconds for model, seconds in work.items() if self._queue.is_measured(model)}
        if any(ready.values()) and self._queue.waits_for_baselines:
            work = ready
        now = self._clock()
        running = [one for lot in self._lots for one in lot.submitted.values()]
        left = sum(seconds / slots[model] for model, seconds in work.items())
        left += sum(max(0.0, one.ends - now) / slots[one.model] for one in running)
        last = left <= self._queue.longest_case()
        return min(self._longest, left if last else left / PIECES_LEFT)

    def _model_slots(self, model: str) -> float:
        """Return how many pieces of a model can run at the same time; 0.0 if the cluster takes all at once."""
        shares = [self._share(lot.needs[model]) for lot in self._lots if model in lot.needs]
        return max(1.0, sum(1 / share for share in shares)) if all(shares) else 0.0
