"""Kills workers in the middle of a stage: just before its output gets its final name, or when a file is opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

HOOK = """

import os, pathlib, signal, sys
STAGES = {stages!r}
KILLED = pathlib.Path(__file__).parent / "killed"
KILLED.mkdir(exist_ok=True)

def kill(event, arguments):
    if event not in ("open", "os.rename"):
        return
    case = os.environ.get("PYTEST_CURRENT_TEST", "").partition("[")[2].partition("]")[0]
    for stage in STAGES:
        mark = KILLED / stage["name"]
        fits = event == stage["event"] and str(arguments[event == "os.rename"]).endswith(stage["place"])
        if fits and stage["case"] in ("", case) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
"""


@dataclass(frozen=True)
class Stage:
    """The moment at which one worker is killed: an audit event, the end of the event's path, and the running case.

    ``event`` is ``open``, or ``os.rename``, for which ``place`` is the end of the new name. An empty ``case`` matches
    any case.
    """

    name: str
    event: str
    place: str
    case: str = ""


def kill_workers_in(suites: Path, stages: Iterable[Stage]) -> None:
    """Change a copy of our suites folder so that its workers are killed at these stages."""
    with (suites / "conftest.py").open("a") as stream:
        stream.write(HOOK.format(stages=[asdict(stage) for stage in stages]))


def killed(suites: Path) -> set[str]:
    """Return the names of the stages at which a worker was killed."""
    return {path.name for path in (suites / "killed").iterdir()}
