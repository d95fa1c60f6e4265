"""The requirements of the suites as the code computes them, and the defaults that depend on the suite."""

from pathlib import Path

import pytest

from invarlock.catalog.cases import plan_cases
from invarlock.catalog.models import Models, Suite, read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.harness.devices.memory_plan import needed_bytes
from invarlock.harness.planning.sizing import suite_defaults
from invarlock.harness.selection.selected_cases import OPT_IN_CATEGORIES

ROOT = Path(__file__).parents[3]
# number of windows of the CPU suites times tokens per window
SEQ_LEN = 128


@pytest.fixture(scope="module")
def models() -> Models:
    return read_models(ROOT / "suites/models.toml")


def gigabytes(count: int) -> str:
    """Return a number of bytes as gigabytes in the format of the page."""
    return f"{count / 1e9:.4g} GB" if count >= 10**9 else f"{count / 1e6:.3g} MB"


def test_the_operators_page_says_what_each_suite_needs(models: Models) -> None:
    page = (ROOT / "docs/operating.md").read_text("utf-8")
    cases = plan_cases(models, read_scenarios(ROOT / "suites/scenarios.json"), None, None)

    def row(suite: Suite) -> str:
        own = [models.models[name] for name in suite.models]
        count = sum(suite.name in case.suites and case.scenario.category not in OPT_IN_CATEGORIES for case in cases)
        sizes = (
            max(needed_bytes(model, suite.requires, 16 * SEQ_LEN, SEQ_LEN) for model in own),
            sum(model.weight_bytes for model in own),
            max(model.weight_bytes for model in own),
        )
        return f"| `{suite.name}` | {len(own)} | {count} | {' | '.join(map(gigabytes, sizes))} |"

    assert [row(suite) for suite in models.suites.values() if row(suite) not in page] == []


def test_defaults_that_follow_from_the_suite_are_those_that_the_settings_document(models: Models) -> None:
    defaults = {name: suite_defaults(models.suites[name]) for name in ("smoke", "full")}

    names = ("calibration_runs", "clean_runs", "stress_runs", "min_free_disk_gb")
    assert [defaults["smoke"][name] for name in names] == [2, 1, 1, 1.0]
    assert [defaults["full"][name] for name in names] == [5, 3, 2, 200.0]
