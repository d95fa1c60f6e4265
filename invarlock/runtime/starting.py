"""Starts a job in a container: prepares its handover file and writable folders, and cleans up afterwards."""

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
from invarlock.runtime.supervision import run_to_the_end
from invarlock.runtime.writable_paths import WritablePaths, grant_write_access, readable_by


@dataclass(frozen=True)
class Launch:
    """A job with its engine and handover; ``secret`` is a file that may be readable only by its owner."""

    engine: Engine
    job: Job
    writable: WritablePaths
    handover: Handover
    secret: Path | None = None


def start(launch: Launch) -> int:
    """Run a job in a container and return its exit code.

    Raises:
        UsageError: when the engine cannot be started, or a folder cannot be created.
    """
    image, by, name = launch.handover.image, caller(), f"invarlock-{uuid.uuid4().hex[:12]}"
    say(f"invarlock: {launch.engine.name} runs {image.reference} ({image.digest})")
    flush_output()
    with _handed_over(launch, by) as job:
        return run_to_the_end(launch.engine, name, engine_arguments(launch.engine, image, name, job, by))


@contextmanager
def _handed_over(launch: Launch, by: Caller) -> Iterator[Job]:
    """Yield the job with its handover file mounted and its folders created."""
    with tempfile.TemporaryDirectory(prefix="invarlock-") as place:
        handover_file = Path(place) / PLACE.name
        launch.handover.write(handover_file)
        mounts = [Mount(PLACE, source=handover_file)]
        if launch.secret is not None and not readable_by(launch.secret, by):
            # root's own file has mode 0600, but the user inside is not root
            copied = Path(place) / "secret"
            shutil.copyfile(launch.secret, copied)
            copied.chmod(0o400)
            os.chown(copied, by.user, by.group)
            mounts.append(Mount(launch.secret, source=copied))
        with grant_write_access(launch.writable, by):
            yield replace(launch.job, mounts=(*mounts, *launch.job.mounts))
