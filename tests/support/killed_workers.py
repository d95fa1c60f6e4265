"""Workers that are killed in the middle of a stage: before what it made gets its name, or when a file is opened."""

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
    """When a worker is killed, once: the event, the end of the path that it is about, and the case that runs.

    ``event`` is ``open``, or ``os.rename`` of the path's new name; an empty ``case`` is any.
    """

    name: str
    event: str
    place: str
    case: str = ""


def kill_workers_in(suites: Path, stages: Iterable[Stage]) -> None:
    """Make the workers of a suites folder of ours die at these stages."""
    with (suites / "conftest.py").open("a") as stream:
        stream.write(HOOK.format(stages=[asdict(stage) for stage in stages]))


def killed(suites: Path) -> set[str]:
    """Return the names of the stages at which a worker was killed."""
    return {path.name for path in (suites / "killed").iterdir()}
