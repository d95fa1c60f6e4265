"""The pieces of a run and the order in which they are submitted.

Example::

    queue = PieceQueue(cases, Costs(), measured=set())
    piece = queue.take(600.0)       # a model's first piece, in which its node measures the baseline and the preset
    queue.take(600.0)               # the first piece of another model, or None: the rest waits for the baseline
    queue.finished(piece, seconds=93.0, baseline=True)
    queue.take(600.0)               # now the longest case that is left, and others of its model up to 600 seconds
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
    """Cases of one model that a node runs in one session, and their estimated duration in seconds.

    A piece without cases measures the baseline of its model; it selects the case ``opens`` but does not run it.
    """

    number: int
    model: Model
    cases: tuple[Case, ...]
    seconds: float
    opens: Case | None = None


class PieceQueue:
    """The cases of a run that are not submitted yet; a piece is cut from them when a node has room for it.

    The first piece of a model measures only its baseline and preset, which all other pieces need, unless one piece is
    enough for the model. If that piece returns no baseline, the next piece has a case, whose failure shows the reason.
    """

    def __init__(self, cases: Sequence[Case], costs: Costs, measured: Collection[str] = ()) -> None:
        """Sort the cases.

        Args:
            cases: the cases to run.
            costs: estimates the costs of cases.
            measured: the ids of the models whose baselines exist.
        """
        self._costs = costs
        self._numbers = 0
        self._measured = set(measured)
        self._tried: set[str] = set()
        self._lost: set[str] = set()
        self._waiting: dict[str, list[Case]] = {case.model.id: [] for case in cases}
        self._running: Counter[str] = Counter()
        self._estimated: defaultdict[str, float] = defaultdict(float)
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._put(cases)

    @property
    def left(self) -> int:
        """Return the number of cases that are not submitted yet."""
        return sum(map(len, self._waiting.values()))

    @property
    def waits_for_baselines(self) -> bool:
        """Return whether any remaining case lacks its baseline."""
        return any(cases and model not in self._measured for model, cases in self._waiting.items())

    def work(self) -> dict[str, float]:
        """Return the expected seconds of the remaining cases, by model."""
        return {model: self._pace(model) * self._seconds(cases) for model, cases in self._waiting.items()}

    def longest_case(self) -> float:
        """Return the expected seconds of the longest remaining case, or 0.0 if none is left."""
        return max((self._longest(model) for model, cases in self._waiting.items() if cases), default=0.0)

    def expected_seconds(self, piece: Piece) -> float:
        """Return the expected seconds of the cases in a piece."""
        return self._pace(piece.model.id) * piece.seconds

    def is_measured(self, model: str) -> bool:
        """Return whether the baseline of a model exists."""
        return model in self._measured

    def take(self, seconds: float, models: Collection[str] | None = None) -> Piece | None:
        """Return the next piece to submit, or None if all eligible cases wait for a baseline that is being measured.

        Models without a baseline come first, starting with the one that has the most work. Then comes the longest case,
        together with other cases of its model up to the wanted length.

        Args:
            seconds: the wanted duration of the piece; a single case may take longer.
            models: the ids of the eligible models, None for all.
        """
        own = [model for model, cases in self._waiting.items() if cases and (models is None or model in models)]
        opening = [model for model in own if model not in self._measured and not self._running[model]]
        if opening:
            return self._open(max(opening, key=self.work().__getitem__), seconds)
        ready = [model for model in own if model in self._measured]
        return self._cut(max(ready, key=self._longest), seconds) if ready else None

    def finished(self, piece: Piece, seconds: float, *, baseline: bool) -> None:
        """Record the time of a finished piece, and whether its model now has a baseline."""
        model = piece.model.id
        self._running[model] -= 1
        if model in self._measured:
            # the first piece of a model spends its time on the baseline
            self._estimated[model] += piece.seconds
            self._spent[model] += seconds
        elif baseline:
            self._measured.add(model)
        self._tried.add(model)

    def again(self, cases: Iterable[Case]) -> None:
        """Put cases that were lost with their node back, each as a separate piece."""
        lost = list(cases)
        self._lost.update(case.id for case in lost)
        self._put(lost)

    def _put(self, cases: Iterable[Case]) -> None:
        for case in cases:
            self._waiting[case.model.id].append(case)
        for waiting in self._waiting.values():
            waiting.sort(key=self._costs.case_seconds, reverse=True)

    def _open(self, model: str, seconds: float) -> Piece:
        """Return the first piece of a model."""
        waiting = self._waiting[model]
        if self._seconds(waiting) <= seconds and not self._lost_in(waiting):
            return self._cut(model, seconds)
        if model not in self._tried:
            return self._piece(waiting[-1].model, (), waiting[-1])
        return self._piece(waiting[-1].model, (waiting.pop(),))

    def _cut(self, model: str, seconds: float) -> Piece:
        """Return a piece with the longest case and the longest other cases that still fit."""
        pace, waiting = self._pace(model), self._waiting[model]
        taken = [waiting.pop(0)]
        length = pace * self._seconds(taken)
        for case in list(waiting):
            own = pace * self._costs.case_seconds(case)
            if length + own <= seconds and not self._lost_in([*taken, case]):
                waiting.remove(case)
                taken.append(case)
                length += own
        return self._piece(taken[0].model, tuple(taken))

    def _lost_in(self, cases: Iterable[Case]) -> bool:
        return any(case.id in self._lost for case in cases)

    def _piece(self, model: Model, cases: tuple[Case, ...], opens: Case | None = None) -> Piece:
        self._numbers += 1
        self._running[model.id] += 1
        return Piece(self._numbers, model, cases, self._seconds(cases), opens)

    def _seconds(self, cases: Iterable[Case]) -> float:
        return sum(map(self._costs.case_seconds, cases))

    def _longest(self, model: str) -> float:
        return self._pace(model) * self._costs.case_seconds(self._waiting[model][0])

    def _pace(self, model: str) -> float:
        """Return the ratio of measured to estimated time of a model's finished pieces.

        Until the model has a finished piece, the ratio is that of all models.
        """
        if self._estimated[model]:
            return self._spent[model] / self._estimated[model]
        estimated = sum(self._estimated.values())
        return sum(self._spent.values()) / estimated if estimated else 1.0
