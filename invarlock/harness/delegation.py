"""From pytest's command line to the same command line in the runtime image.

What keeps it from starting is told by the checks before the first case, with everything else that is missing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from invarlock.errors import InvarLockError
from invarlock.harness.container_mounts import Written, absolute, job_mounts, job_variables, mount_problems, written
from invarlock.harness.selection import Catalog
from invarlock.runtime.container import Caller, Job, Mount, caller, engine_arguments
from invarlock.runtime.engines import Engine, find_engine, find_image, gpu_problems
from invarlock.runtime.handover import PLACE, Handover, code_digest
from invarlock.runtime.lending import lent, readable_by
from invarlock.runtime.provenance import source_of
from invarlock.runtime.supervision import run_to_the_end
from invarlock.settings import Settings

CONTAINER = "container"
PROBLEMS = pytest.StashKey[tuple[str, ...]]()
# Options of pytest that ask for something else than a run.
SHOWING = (
    "collectonly", "help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow", "setuponly",
    "setupplan",
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """What is started, the files it writes, and what it is told."""

    engine: Engine
    job: Job
    written: Written
    handover: Handover


def asks_for_a_run(config: pytest.Config) -> bool:
    """Tell whether a pytest process starts a run: not as a worker, and not to show something."""
    return not hasattr(config, "workerinput") and not any(getattr(config.option, name, False) for name in SHOWING)


def run_in_container(config: pytest.Config, folder: Path, settings: Settings, catalog: Catalog) -> int | None:
    """Run pytest's command line in the runtime image and return its exit code.

    Returns None, with the problems in the config's stash, when something is missing.
    """
    problems: list[str] = []
    launch = _plan(config, folder, settings, catalog, problems)
    if launch is None or problems:
        config.stash[PROBLEMS] = tuple(problems)
        return None
    image, by, name = launch.handover.image, caller(), f"invarlock-{uuid.uuid4().hex[:12]}"
    print(f"invarlock: {launch.engine.name} runs {image.reference} ({image.digest})", flush=True)
    try:
        with _handed_over(launch, settings, by) as job:
            return run_to_the_end(launch.engine, name, engine_arguments(launch.engine, image, name, job, by))
    except InvarLockError as error:
        raise pytest.UsageError(str(error)) from None


def _plan(
    config: pytest.Config, folder: Path, settings: Settings, catalog: Catalog, problems: list[str]
) -> Launch | None:
    """Return what is to be started; None, and a problem more, when there is no engine or no image."""
    on_gpus = catalog.models.suites[catalog.suite].requires == "gpu"
    writes = written(config, settings)
    problems += mount_problems(config, folder, settings, writes)
    engine = image = source = None
    # a marker file that is malformed is told by the check of the source
    with suppress(InvarLockError):
        source = source_of(folder)
    try:
        engine = find_engine(settings["container_engine"], settings["runtime_image"])
        problems += gpu_problems(engine) if on_gpus else ()
        image = find_image(engine, settings["runtime_image"])
    except InvarLockError as error:
        problems.append(str(error))
    if engine is None or image is None:
        return None
    passed, variables = job_variables(settings)
    job = Job(
        ("pytest", *map(str, config.invocation_params.args)),
        config.invocation_params.dir,
        tuple(job_mounts(config, folder, settings, writes)),
        passed,
        variables,
        gpus=on_gpus,
        network=settings["net"],
    )
    return Launch(engine, job, writes, Handover(image, code_digest(), source))


@contextmanager
def _handed_over(launch: Launch, settings: Settings, by: Caller) -> Iterator[Job]:
    """Lay down what the container is told and what it writes; yield the job with it."""
    with tempfile.TemporaryDirectory(prefix="invarlock-") as place:
        told = Path(place) / PLACE.name
        launch.handover.write(told)
        mounts = [Mount(PLACE, source=told)]
        key = settings["signing_key"]
        if key is not None and not readable_by(Path(key), by):
            # root's own file, mode 0600: its user inside is another
            copied = Path(place) / "signing_key"
            shutil.copyfile(key, copied)
            os.chown(copied, by.user, by.group)
            mounts.append(Mount(absolute(key), source=copied))
        with lent(launch.written.folders, launch.written.files, launch.written.caches, by):
            yield replace(launch.job, mounts=(*mounts, *launch.job.mounts))
