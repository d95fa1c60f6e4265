"""Fixtures of the suites: a bench a worker, a report a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from invarlock.catalog.cases import Case
from invarlock.errors import InvarLockError

if TYPE_CHECKING:
    from invarlock.harness.bench import Bench


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """The worker's bench, which makes baselines once and subjects as they are needed."""
    # imported here: it imports torch, and collecting the cases must not
    from invarlock.harness.bench import Bench

    return Bench(pytestconfig.pluginmanager.getplugin("invarlock-session").run)


@pytest.fixture
def report(case: Case, bench: Bench) -> Mapping[str, Any]:
    """The case's report, made by editing, measuring and comparing."""
    try:
        return bench.evaluate(case)
    except InvarLockError as error:
        pytest.fail(str(error), pytrace=False)
