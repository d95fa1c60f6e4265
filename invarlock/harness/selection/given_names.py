"""Checking names on the command line and in the environment at the start: marks, variables and unread settings."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from invarlock.errors import InvarLockError, printable, printable_lines
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import BYOE_SUITE, Catalog, check_mark_names
from invarlock.nearest import did_you_mean
from invarlock.output import say_error
from invarlock.packer.trust.file_access import key_warnings
from invarlock.settings import Mode, Settings, unknown_variables, unread_settings


class GivenNames:
    """Refuses unknown marks, and warns about settings without an effect and about a signing key that others can read.

    Only the process that plans a run uses it.
    """

    def __init__(self, catalog: Catalog, settings: Settings, config: pytest.Config) -> None:
        self.catalog = catalog
        self.settings = settings
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Check the names, after every plugin and conftest has registered its marks and before any worker starts."""
        registered = [re.split(r"[:(]", line, maxsplit=1)[0].strip() for line in self.config.getini("markers")]
        try:
            check_mark_names(MarkExpression.parse(self.config.option.markexpr), registered)
        except InvarLockError as error:
            raise pytest.UsageError(printable_lines(error.coded_text)) from None
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if terminal is None:
            return
        key = self.settings.signing_key
        access = [] if key is None else key_warnings(Path(key))
        unread = unread_settings(self.settings, self._mode(), os.environ)
        strange = unknown_models(self.settings, self.catalog.models.models)
        for line in (*unknown_variables(os.environ), *unread, *strange, *access):
            terminal.write_line(printable(f"invarlock: warning: {line}"), yellow=True)

    def _mode(self) -> Mode:
        suite = self.catalog.models.suites[self.catalog.suite]
        dataset = self.settings.dataset or ("" if suite.text is None else suite.text.dataset)
        return Mode(self.catalog.sentinels, suite.name == BYOE_SUITE, suite.requires, dataset)


def unknown_models(settings: Settings, known: Collection[str]) -> Iterator[str]:
    """Yield each model that has edit parameters in the config but is not in the suites folder."""
    if settings.config is None:
        return
    for model_id in settings.config.edits:
        if model_id not in known:
            near = did_you_mean(model_id, known)
            yield f"{settings.config.path}: edits: {model_id}: no model has this id{near}; it has no effect"


def warn_before_launch(environment: Mapping[str, str]) -> None:
    """Warn about variables that are not passed on to a container because no setting has their name."""
    for line in unknown_variables(environment):
        say_error(f"invarlock: warning: {line}")
