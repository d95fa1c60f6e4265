"""The stages of xdist workers: each worker writes its stage to a file, and the controller reads all files.

xdist carries only its own events from workers to the controller, whose main thread waits for them. A thread adds our
event to the queue of the controller, so that only the main thread reads the files and writes to the terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from invarlock.errors import InvarLockError
from invarlock.jsonio import read_json, write_json
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.stages import StageEvent, listening

FOLDER = "stages"
SECONDS = 0.5


def stages_folder(directory: RunDirectory) -> Path:
    """Return the folder of the stage files, which exists while workers run cases."""
    return directory.state / FOLDER


class WorkerStage:
    """Keeps the current stage of a worker's test in a file while the test runs.

    Args:
        path: the file.
        clock: returns the time in seconds; replaced in tests.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._stages: tuple[str, ...] = ()
        self._due = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        try:
            with listening(self):
                return (yield)
        finally:
            self._stages = ()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def __call__(self, event: StageEvent) -> None:
        """Write an event, unless its stage is unchanged and was written a moment ago."""
        now = self._clock()
        if event.stages == self._stages and now < self._due:
            return
        self._stages, self._due = event.stages, now + SECONDS
        # the case reports a full disk
        with suppress(OSError):
            write_json(self._path, asdict(event))


@dataclass(frozen=True)
class _Seen:
    """The stage of a worker, and when its outermost stage was first seen."""

    event: StageEvent
    since: float


class StagesOfWorkers:
    """Reads the workers' files periodically and shows the event of one worker.

    Args:
        scheduler: xdist's ``DSession``, whose events are processed in the main thread.
        folder: the folder of the files.
        show: called with the event of the worker whose outermost stage is the oldest.
    """

    def __init__(self, scheduler: Any, folder: Path, show: Callable[[StageEvent], None]) -> None:
        self._queue = scheduler.queue
        self._folder = folder
        self._show = show
        self._seen: dict[str, _Seen] = {}
        self._over = threading.Event()
        self._read = threading.Event()
        self._read.set()
        # xdist calls the method that has the name of the event
        scheduler.worker_stages = self._look
        self._thread = threading.Thread(target=self._remind, name="stages of workers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and remove files that killed workers left."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(OSError):
            for path in self._folder.iterdir():
                path.unlink()
            self._folder.rmdir()

    def forget(self, worker: str) -> None:
        """Remove the file of a worker that has ended or died."""
        with suppress(OSError):
            (self._folder / f"{worker}.json").unlink(missing_ok=True)

    def _remind(self) -> None:
        while not self._over.wait(SECONDS):
            # at most one event is in the queue
            if self._read.is_set():
                self._read.clear()
                self._queue.put(("stages", {}))

    def _look(self) -> None:
        self._read.set()
        now = time.monotonic()
        found = dict(read_events(self._folder))
        for worker in self._seen.keys() - found.keys():
            del self._seen[worker]
        for worker, event in found.items():
            before = self._seen.get(worker)
            is_same = before is not None and before.event.stages[:1] == event.stages[:1]
            self._seen[worker] = _Seen(event, before.since if before is not None and is_same else now)
        shown = chosen([(one.event, one.since) for one in self._seen.values()])
        if shown is not None:
            self._show(shown)


def read_events(folder: Path) -> Iterator[tuple[str, StageEvent]]:
    """Yield each file's name and its event; a file that is being removed or is damaged is left out."""
    with suppress(OSError):
        for path in sorted(folder.glob("*.json")):
            with suppress(OSError, InvarLockError, TypeError, KeyError):
                document = read_json(path)
                yield path.stem, StageEvent(**{**document, "stages": tuple(map(str, document["stages"]))})


def chosen(events: list[tuple[StageEvent, float]]) -> StageEvent | None:
    """Return the event to show: that of the oldest outermost stage, and among workers in it the innermost event.

    Args:
        events: the events, each with the time at which its outermost stage was first seen.
    """
    if not events:
        return None
    oldest, _ = min(events, key=lambda one: one[1])
    same = [event for event, _ in events if event.stages[:1] == oldest.stages[:1]]
    # the other workers wait for the one that measures
    return max(same, key=lambda event: (len(event.stages), bool(event.what)))
