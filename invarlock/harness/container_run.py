"""The hook that runs pytest's command line in the runtime image, where a run's execution mode is container."""

from __future__ import annotations

import os

import pytest

from invarlock.errors import InvarLockError
from invarlock.settings import SETTINGS, Settings, resolve_settings

CONTAINER = "container"
# Why a run that should be in a container is not.
PROBLEMS = pytest.StashKey[tuple[str, ...]]()
# Options of pytest that ask for something else than a run.
SHOWING = (
    "collectonly", "help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow", "setuponly",
    "setupplan",
)  # fmt: skip


def asks_for_a_run(config: pytest.Config) -> bool:
    """Tell whether a pytest process starts a run: not as a worker, and not to show something."""
    return not hasattr(config, "workerinput") and not any(getattr(config.option, name, False) for name in SHOWING)


def given_settings(config: pytest.Config) -> Settings:
    """Return the settings of a command line and its environment.

    Raises:
        UsageError: naming each value that is not allowed.
    """
    options = {setting.name: config.getoption(f"invarlock_{setting.name}", None) for setting in SETTINGS}
    return resolve_settings(options, os.environ)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    # imported here: pytest in any other folder does without
    from invarlock.harness.plugin import find_suites_folder

    folder = find_suites_folder(config) if asks_for_a_run(config) else None
    if folder is None:
        return None
    from invarlock.harness.suite_reading import read_suite
    from invarlock.runtime.handover import read_handover

    if read_handover() is not None:
        return None
    try:
        catalog, settings = read_suite(folder, given_settings(config), config)
    except InvarLockError:
        # told when pytest is configured
        return None
    if settings.execution_mode != CONTAINER:
        return None
    from invarlock.harness.delegation import run_in_container

    return run_in_container(config, folder, settings, catalog)
