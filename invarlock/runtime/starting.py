"""Starting a job in a container: what it is told and what it writes is there before, and cleared away after."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from invarlock.output import flush_output, say
from invarlock.runtime.container import Caller, Job, Mount, caller, engine_arguments
from invarlock.runtime.engines import Engine
from invarlock.runtime.handover import PLACE, Handover
from invarlock.runtime.lending import lent, readable_by
from invarlock.runtime.supervision import run_to_the_end


@dataclass(frozen=True)
class Written:
    """Folders and files that are a job's own to write, and caches that it shares with others."""

    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Launch:
    """What is started, where, and what it is told; ``secret`` is a file that perhaps only its owner may read."""

    engine: Engine
    job: Job
    written: Written
    handover: Handover
    secret: Path | None = None


def start(launch: Launch) -> int:
    """Run a job in a container and return its exit code.

    Raises:
        UsageError: when the engine cannot be started, or a folder cannot be made.
    """
    image, by, name = launch.handover.image, caller(), f"invarlock-{uuid.uuid4().hex[:12]}"
    say(f"invarlock: {launch.engine.name} runs {image.reference} ({image.digest})")
    flush_output()
    with _handed_over(launch, by) as job:
        return run_to_the_end(launch.engine, name, engine_arguments(launch.engine, image, name, job, by))


@contextmanager
def _handed_over(launch: Launch, by: Caller) -> Iterator[Job]:
    """Yield the job with what it is told; its folders are there."""
    with tempfile.TemporaryDirectory(prefix="invarlock-") as place:
        told = Path(place) / PLACE.name
        launch.handover.write(told)
        mounts = [Mount(PLACE, source=told)]
        if launch.secret is not None and not readable_by(launch.secret, by):
            # root's own file, mode 0600: the user inside is another
            copied = Path(place) / "secret"
            shutil.copyfile(launch.secret, copied)
            copied.chmod(0o400)
            os.chown(copied, by.user, by.group)
            mounts.append(Mount(launch.secret, source=copied))
        with lent(launch.written.folders, launch.written.files, launch.written.caches, by):
            yield replace(launch.job, mounts=(*mounts, *launch.job.mounts))
