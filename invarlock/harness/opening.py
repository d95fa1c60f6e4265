"""A suites folder with the catalog and settings for one command line, both resolved once per process.

Example::

    suite = open_suite(config)      # reads models.toml, scenarios.json, options and variables
    open_suite(config) is suite     # every later call returns the same value
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from invarlock.catalog.cases import plan_cases
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.harness.planning.sizing import suite_defaults
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import Catalog, is_byoe, make_catalog, marks_of, named_suites
from invarlock.harness.selection.suites_folder import find_suites_folder
from invarlock.problems import Problem
from invarlock.runtime.handover import Handover, read_handover
from invarlock.settings import SETTINGS, Settings, resolve_settings


@dataclass(frozen=True)
class OpenSuite:
    """The suite that one pytest process runs.

    Attributes:
        folder: the suites folder.
        catalog: the folder's models, scenarios and cases for this command line.
        settings: the settings, including the suite's defaults.
        handover: values passed in by the process outside the container, None outside a container.
        launch_problems: why the run is not in a container although its execution mode requires one.
    """

    folder: Path
    catalog: Catalog
    settings: Settings
    handover: Handover | None
    launch_problems: tuple[Problem, ...] = ()


OPEN_SUITE = pytest.StashKey[OpenSuite]()


def open_suite(config: pytest.Config) -> OpenSuite:
    """Return the suite selected by pytest's arguments; the first call reads it.

    Raises:
        InvarLockError: if the folder's files or the settings are invalid.
    """
    if OPEN_SUITE not in config.stash:
        folder = find_suites_folder(config)
        assert folder is not None
        catalog, settings = _read_suite(folder, _given_settings(config), config)
        config.stash[OPEN_SUITE] = OpenSuite(folder, catalog, settings, read_handover())
    return config.stash[OPEN_SUITE]


def _given_settings(config: pytest.Config) -> Settings:
    options = {setting.name: config.getoption(f"invarlock_{setting.name}", None) for setting in SETTINGS}
    return resolve_settings(options, os.environ)


def _read_suite(folder: Path, settings: Settings, config: pytest.Config) -> tuple[Catalog, Settings]:
    models, scenarios = read_models(folder / "models.toml"), read_scenarios(folder / "scenarios.json")
    folder_marks = marks_of(models)
    expression = MarkExpression.parse(config.option.markexpr)
    if is_byoe(expression, models, settings):
        # imported here: it reads checkpoints, which other runs need only in their first case
        from invarlock.harness.selection.byoe import bring

        others = named_suites(models, plan_cases(models, scenarios), expression)
        models, scenarios = bring(
            models, settings, config.invocation_params.dir, others, verified=hasattr(config, "workerinput")
        )
    catalog = make_catalog(models, scenarios, expression, config.args, settings)
    catalog = replace(catalog, folder_marks=folder_marks)
    return catalog, settings.with_defaults(suite_defaults(catalog.models.suites[catalog.suite]))
