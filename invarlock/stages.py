"""The stages of an evaluation: the code announces its stages and counts, and a listener shows them.

Example::

    with listening(print), stage("baseline mistral-tiny"), stage("null run 2/2"):
        for tensor in counted(tensors, "weights", 272):
            ...                 # StageEvent(("baseline mistral-tiny", "null run 2/2"), "weights", 41, 272)

Work that is done by several functions, each of which counts its own, is named and counted as one part::

    with part("final windows", 64):
        announce("windows", 8, 8)       # final windows 8/64
        announce("windows", 16, 64)     # final windows 16/64

Without a listener, announcements have no effect. Listeners and stages belong to the context of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class StageEvent:
    """The progress of the work at one moment.

    Attributes:
        stages: the names of the current stages, outermost first.
        what: the things counted in the innermost stage; empty if nothing is counted.
        done: how many of these things are done.
        total: how many of these things there are.
    """

    stages: tuple[str, ...]
    what: str = ""
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        return " · ".join([*self.stages, *([f"{self.what} {self.done}/{self.total}"] if self.what else [])])


Listener = Callable[[StageEvent], object]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_STAGES: ContextVar[tuple[str, ...]] = ContextVar("stages", default=())
_PART: ContextVar[tuple[str, int] | None] = ContextVar("part", default=None)


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Call the listeners with each event of the work inside this context."""

    def call_all(event: StageEvent) -> None:
        for listener in listeners:
            listener(event)

    token = _LISTENER.set(call_all)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Announce a stage; the work inside this context is part of it."""
    token, outer = _STAGES.set((*_STAGES.get(), name)), _PART.set(None)
    try:
        announce()
        yield
    finally:
        _STAGES.reset(token)
        _PART.reset(outer)


@contextmanager
def part(what: str, total: int) -> Iterator[None]:
    """Count the work inside this context as one part of the innermost stage; a part inside a part has no effect."""
    token = _PART.set(_PART.get() or (what, total))
    try:
        yield
    finally:
        _PART.reset(token)


def announce(what: str = "", done: int = 0, total: int = 0) -> None:
    """Report the progress of the innermost stage to the listener; within a part, in the words and total of the part."""
    listener = _LISTENER.get()
    if listener is not None:
        if what:
            what, total = _PART.get() or (what, total)
        listener(StageEvent(_STAGES.get(), what, done, total))


def counted(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield items and announce how many are done."""
    done = 0
    announce(what, done, total)
    for item in items:
        yield item
        done += 1
        announce(what, done, total)
