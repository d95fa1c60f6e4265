"""From a suites folder and a command line to the catalog of a run and its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from invarlock.catalog.cases import plan_cases
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.harness.mark_expressions import MarkExpression
from invarlock.harness.selection import Catalog, is_byoe, make_catalog, marks_of, suites_asked_for
from invarlock.harness.sizing import suite_defaults
from invarlock.settings import Settings


def read_suite(folder: Path, settings: Settings, config: pytest.Config) -> tuple[Catalog, Settings]:
    """Return what a suites folder holds for a command line, and the settings with what follows from its suite.

    Raises:
        InvarLockError: when the folder's files or the settings are wrong.
    """
    models, scenarios = read_models(folder / "models.toml"), read_scenarios(folder / "scenarios.json")
    folder_marks = marks_of(models)
    expression = MarkExpression.parse(config.option.markexpr)
    if is_byoe(expression, models, settings):
        # imported here: it reads checkpoints, which no other run does before its first case
        from invarlock.harness.byoe import bring

        others = suites_asked_for(models, plan_cases(models, scenarios), expression)
        models, scenarios = bring(models, settings, config.invocation_params.dir, others)
    catalog = make_catalog(models, scenarios, expression, config.args, settings)
    catalog = replace(catalog, folder_marks=folder_marks)
    return catalog, settings.with_defaults(suite_defaults(catalog.models.suites[catalog.suite]))
