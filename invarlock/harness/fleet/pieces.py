"""The pieces of a run and the order in which they are submitted.

Example::

    queue = PieceQueue(cases, Costs(), piece_seconds=600, measured=set())
    piece = queue.take()        # a model's first piece, in which its node measures the baseline and the preset
    queue.take()                # the first piece of another model, or None: the rest waits for the baseline
    queue.finished(piece, seconds=93.0, baseline=True)
    queue.take()                # now the longest of the pieces that are left

Cases of one scenario on one model share their subject and are in the same piece.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from invarlock.catalog.cases import Case
from invarlock.catalog.costs import Costs
from invarlock.catalog.models import Model


@dataclass(frozen=True)
class Piece:
    """Cases of one model that a node runs in one session, and the seconds that they take, as estimated."""

    number: int
    model: Model
    cases: tuple[Case, ...]
    seconds: float


class PieceQueue:
    """The pieces of a run that are not submitted yet.

    The first piece of a model has only one group of cases, the shortest: its node measures the baseline and the preset,
    which all others need. The rest are cut to about the same length.
    """

    def __init__(
        self, cases: Sequence[Case], costs: Costs, piece_seconds: float, measured: Collection[str] = ()
    ) -> None:
        """Cut the cases into pieces.

        Args:
            cases: to run.
            costs: of cases.
            piece_seconds: the estimated seconds of a piece; one group of cases may take longer.
            measured: ids of the models whose baselines exist.
        """
        self._costs = costs
        self._numbers = 0
        self._measured = set(measured)
        self._waiting: dict[str, list[Piece]] = {}
        self._running: Counter[str] = Counter()
        self._estimated: defaultdict[str, float] = defaultdict(float)
        self._spent: defaultdict[str, float] = defaultdict(float)
        for model in dict.fromkeys(case.model for case in cases):
            own = [case for case in cases if case.model == model]
            self._waiting[model.id] = self._cut(own, piece_seconds)

    @property
    def left(self) -> int:
        """Return the number of pieces that are not submitted."""
        return sum(map(len, self._waiting.values()))

    def take(self) -> Piece | None:
        """Return the next piece to submit, None if all wait for a baseline that is being measured.

        First come the models without a baseline, the one with the most work first, then the longest pieces.
        """
        opening = [model for model in self._waiting if self._waiting[model] and self._opens(model)]
        if opening:
            model = max(opening, key=self._work)
            piece = self._waiting[model].pop(0)
        else:
            ready = [piece for model in self._measured for piece in self._waiting.get(model, ())]
            if not ready:
                return None
            piece = max(ready, key=lambda one: (self._expected(one), -one.number))
            self._waiting[piece.model.id].remove(piece)
        self._running[piece.model.id] += 1
        return piece

    def finished(self, piece: Piece, seconds: float, *, baseline: bool) -> None:
        """Count the time of a finished piece, and whether its model now has a baseline."""
        self._running[piece.model.id] -= 1
        if baseline:
            self._measured.add(piece.model.id)
        self._estimated[piece.model.id] += piece.seconds
        self._spent[piece.model.id] += seconds

    def again(self, cases: Iterable[Case]) -> None:
        """Put cases that were lost with their node back, each group as a piece of its own."""
        for group in _groups(cases):
            self._waiting[group[0].model.id].append(self._piece(group))

    def _opens(self, model: str) -> bool:
        return model not in self._measured and not self._running[model]

    def _cut(self, cases: Sequence[Case], piece_seconds: float) -> list[Piece]:
        """Return the pieces of a model; the shortest group comes first and alone if its baseline is missing."""
        groups = sorted(_groups(cases), key=self._seconds, reverse=True)
        total = sum(map(self._seconds, groups))
        first: list[list[Case]] = []
        if cases[0].model.id not in self._measured and total > piece_seconds:
            first = [groups.pop()]
        return [self._piece(one) for one in (*first, *self._filled(groups, piece_seconds))]

    def _filled(self, groups: Sequence[Sequence[Case]], piece_seconds: float) -> list[list[Case]]:
        """Return groups put together, the longest first, each with the first piece that has room for it."""
        pieces: list[list[Case]] = []
        lengths: list[float] = []
        for group in groups:
            seconds = self._seconds(group)
            place = next((at for at, length in enumerate(lengths) if length + seconds <= piece_seconds), None)
            if place is None:
                pieces.append(list(group))
                lengths.append(seconds)
            else:
                pieces[place] += group
                lengths[place] += seconds
        return pieces

    def _piece(self, cases: Sequence[Case]) -> Piece:
        self._numbers += 1
        return Piece(self._numbers, cases[0].model, tuple(cases), self._seconds(cases))

    def _seconds(self, cases: Iterable[Case]) -> float:
        return sum(map(self._costs.case_seconds, cases))

    def _work(self, model: str) -> float:
        return sum(map(self._expected, self._waiting[model]))

    def _expected(self, piece: Piece) -> float:
        """Return the seconds of a piece: its estimate times what finished pieces took of theirs."""
        model = piece.model.id
        if self._estimated[model]:
            return piece.seconds * self._spent[model] / self._estimated[model]
        estimated = sum(self._estimated.values())
        return piece.seconds * (sum(self._spent.values()) / estimated if estimated else 1.0)


def _groups(cases: Iterable[Case]) -> list[list[Case]]:
    """Return the cases of each model and scenario."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        found.setdefault((case.model.id, case.scenario.id), []).append(case)
    return list(found.values())
