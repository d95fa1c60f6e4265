"""The plugin's fixtures, for the tests of a suites folder; they do not exist outside of one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from invarlock.catalog.cases import Case
from invarlock.errors import InvarLockError, disk_refuses
from invarlock.harness.cases.case_facts import case_facts
from invarlock.harness.cases.sentinels import run_sentinel
from invarlock.harness.planning.plan import PlannedNullRun
from invarlock.harness.session import SESSION, case_of
from invarlock.harness.stopping.case_clock import CLOCK
from invarlock.loading_pytorch import loading_pytorch

if TYPE_CHECKING:
    from invarlock.harness.cases.case_runner import CaseRunner


# The key of the case that this process runs after the current test; None after its last case.
FOLLOWING = pytest.StashKey[Case | None]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Remember the next case while a test runs."""
    item.config.stash[FOLLOWING] = None if nextitem is None else case_of(nextitem)
    return (yield)


@pytest.fixture(scope="session")
def case_runner(pytestconfig: pytest.Config) -> Iterator[CaseRunner]:
    """The worker's case runner, which makes baselines once and subjects as they are needed."""
    started = time.perf_counter()
    with loading_pytorch():
        # imported here: it imports torch, and collecting the cases must not
        from invarlock.harness.cases.case_runner import CaseRunner

    with _failing_on_one_line():
        runner = CaseRunner(pytestconfig.stash[SESSION].run, pytestconfig.stash[CLOCK].waiting, began=started)
    yield runner
    runner.close()


@pytest.fixture
def report(case: Case, case_runner: CaseRunner, request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """The case's report, made by editing, measuring and comparing; several tests of a case share it."""
    with _failing_on_one_line():
        if request.config.stash[SESSION].baseline_only:
            case_runner.prepare(case)
            pytest.skip("its baseline is measured, in a session for that alone")
        found = case_runner.evaluate(case, request.config.stash[FOLLOWING])
    facts = {
        **case_facts(found),
        "preparation_seconds": f"{case_runner.shared_seconds:.1f}",
        **case_runner.calibration.take_reused(),
    }
    request.node.user_properties.extend(facts.items())
    return found


@pytest.fixture
def measured_null_run(
    null_run: PlannedNullRun, case_runner: CaseRunner, request: pytest.FixtureRequest
) -> Mapping[str, Any]:
    """The document of a null run: the baseline against harmless changes of itself."""
    with _failing_on_one_line():
        found = case_runner.calibrate(null_run)
    request.node.user_properties.extend(case_runner.calibration.take_reused().items())
    return found


@pytest.fixture
def sentinel_folder(sentinel: str, pytestconfig: pytest.Config) -> Path:
    """The folder of a promotion sentinel's report."""
    with _failing_on_one_line():
        return run_sentinel(sentinel, pytestconfig.stash[SESSION].run)


@contextmanager
def _failing_on_one_line() -> Iterator[None]:
    """Turn an error of ours or of the disk into a test failure of one line."""
    try:
        yield
    except InvarLockError as error:
        pytest.fail(str(error), pytrace=False)
    except OSError as error:
        pytest.fail(disk_refuses(error), pytrace=False)
