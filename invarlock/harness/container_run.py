"""The hook that runs pytest's command line in the runtime image, where a run's execution mode is container."""

from __future__ import annotations

import os

import pytest

from invarlock.errors import InvarLockError
from invarlock.settings import SETTINGS, Settings, resolve_settings


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

    folder = None if hasattr(config, "workerinput") else find_suites_folder(config)
    if folder is None:
        return None
    from invarlock.harness.delegation import CONTAINER, asks_for_a_run, run_in_container
    from invarlock.harness.session import read_suite
    from invarlock.runtime.handover import read_handover

    if not asks_for_a_run(config) or read_handover() is not None:
        return None
    try:
        catalog, settings = read_suite(folder, given_settings(config), config)
    except InvarLockError:
        # told when pytest is configured
        return None
    return run_in_container(config, folder, settings, catalog) if settings["execution_mode"] == CONTAINER else None
