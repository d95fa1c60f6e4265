"""Deciding how many pieces a cluster gets at a time, how long they are, and on which of its nodes they run.

Ray and Slurm know how many GPUs a node has, but not which model fits in their memory. Nodes on which each model of a
run needs the same number of GPUs form a lot; each piece is submitted for the nodes of one lot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from invarlock.harness.fleet.cluster import Cluster, Need
from invarlock.harness.fleet.pieces import Piece, PieceQueue

# Pieces become shorter towards the end, so that all nodes finish together: the length of a piece is the time left until
# the end, divided by this number. The last pieces, which are as long as one case, take all of the time left.
PIECES_LEFT = 2.5
# While pieces have their full length, this share of the running pieces is submitted before there is room for them, so
# that the next piece begins at once and an autoscaler sees the demand.
AHEAD = 0.25
# Tolerance for rounding errors when shares are added.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Submitted:
    """A piece that has not ended: its model, its share of the lot, and the clock time at which it should end."""

    model: str
    share: float
    ends: float


@dataclass
class Lot:
    """Nodes that are equivalent for the models of a run.

    Attributes:
        needs: the need of a piece of each model, by model id; models that do not fit are absent.
        excess: the number of GPUs that each model needs here, divided by the number on the nodes that suit it best.
        submitted: the pieces that have not ended, by number.
    """

    needs: Mapping[str, Need]
    excess: Mapping[str, float]
    submitted: dict[int, Submitted] = field(default_factory=dict)


def make_lots(kinds: Sequence[Mapping[str, Need]]) -> list[Lot]:
    """Return the lots of a cluster, given the need of each model on each kind of node.

    Lots with larger GPUs come last: they are kept for the models that need them as long as the other lots are enough.
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
        """Submit pieces until every lot is full, or no piece may begin."""
        self._slots = {need: self._cluster.slots(need) for lot in self._lots for need in lot.needs.values()}
        # models get the lots that suit them best first, and then the room left in other lots
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
        """Replace the lots after nodes joined; a lot of the same kind keeps the pieces submitted for it."""
        for lot in lots:
            for old in self._lots:
                if old.excess == lot.excess:
                    lot.submitted.update(old.submitted)
        self._lots = lots

    def ended(self, number: int) -> None:
        """Free the room taken by a piece that ended."""
        for lot in self._lots:
            lot.submitted.pop(number, None)

    def is_without_room(self) -> bool:
        """Return whether, when pieces were last submitted, no node had room for any case of the run."""
        return not any(slots != 0 for slots in self._slots.values())

    def _has_room(self, lot: Lot) -> bool:
        # nothing is submitted early while baselines are measured: the longest pieces may need one, and come next
        early = AHEAD if not self._queue.waits_for_baselines and self._piece_seconds() == self._longest else 0.0
        if len(self._lots) > 1 and not any(self._slots[need] for need in lot.needs.values()):
            # all nodes of the lot are lost
            return False
        return sum(one.share for one in lot.submitted.values()) < 1.0 + early - ROUNDING

    def _share(self, need: Need) -> float:
        """Return the share of a lot that a piece takes; 0.0 if the cluster's queue accepts all pieces at once."""
        slots = self._slots[need]
        return 0.0 if slots is None else 1 / max(1, slots)

    def _piece_seconds(self) -> float:
        """Return the wanted duration of the next piece, chosen so that all nodes are busy until the end.

        While baselines are being measured, only the other models have cases to run, so the end of their cases counts.
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
        """Return how many pieces of a model can run at the same time; 0.0 if the cluster accepts all at once."""
        shares = [self._share(lot.needs[model]) for lot in self._lots if model in lot.needs]
        return max(1.0, sum(1 / share for share in shares)) if all(shares) else 0.0
