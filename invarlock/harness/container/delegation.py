"""Running the current pytest command line in the runtime image.

Problems that prevent the container from starting are reported by the checks before the first case, together with all
other problems.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from invarlock.errors import InvarLockError
from invarlock.harness.container.container_mounts import (
    absolute,
    job_mounts,
    job_variables,
    mount_problems,
    writable_paths,
)
from invarlock.harness.opening import OpenSuite
from invarlock.harness.selection.given_names import warn_before_launch
from invarlock.problems import Code, Problem
from invarlock.runtime.container import Job
from invarlock.runtime.engines import find_engine, find_image, gpu_problems
from invarlock.runtime.handover import Handover, code_digest
from invarlock.runtime.provenance import source_of
from invarlock.runtime.starting import Launch, start


def run_in_container(config: pytest.Config, suite: OpenSuite) -> int | tuple[Problem, ...]:
    """Run pytest's command line in the runtime image and return its exit code, or the problems that prevent its start.

    Raises:
        InvarLockError: if the engine does not start the container.
    """
    problems: list[Problem] = []
    launch = _plan(config, suite, problems)
    if launch is None or problems:
        return tuple(problems)
    warn_before_launch(os.environ)
    return start(launch)


def _plan(config: pytest.Config, suite: OpenSuite, problems: list[Problem]) -> Launch | None:
    """Return the container to start; without an engine or an image, return None and append to ``problems``."""
    folder, settings, catalog = suite.folder, suite.settings, suite.catalog
    on_gpus = catalog.models.suites[catalog.suite].requires == "gpu"
    writable = writable_paths(config, settings)
    problems += map(_unavailable, mount_problems(config, folder, settings, writable))
    engine = image = source = None
    # check_source reports a malformed marker file
    with suppress(InvarLockError):
        source = source_of(folder)
    try:
        engine = find_engine(settings.container_engine, settings.runtime_image)
        problems += map(_unavailable, gpu_problems(engine)) if on_gpus else ()
        image = find_image(engine, settings.runtime_image)
    except InvarLockError as error:
        problems += error.listed
    if engine is None or image is None:
        return None
    passed, variables = job_variables(settings)
    job = Job(
        ("pytest", *map(str, config.invocation_params.args)),
        config.invocation_params.dir,
        tuple(job_mounts(config, folder, settings, writable)),
        passed,
        variables,
        gpus=on_gpus,
        network=settings.net,
    )
    key = settings.signing_key
    secret = absolute(key) if key is not None and Path(key).is_file() else None
    return Launch(engine, job, writable, Handover(image, code_digest(), source), secret)


def _unavailable(message: str) -> Problem:
    return Problem(Code.CONTAINER_UNAVAILABLE, "", "", message)
