"""A suites folder of one's own: what InvarLock checks of each case, and a check of ours."""

from collections.abc import Mapping
from typing import Any

import pytest

from invarlock.catalog.cases import Case
from invarlock.harness.judging import explain, judge_case

OUR_LIMIT = 1.02


def test_scenario(case: Case, report: Mapping[str, Any]) -> None:
    record = judge_case(case, report)

    if not record["passed"]:
        pytest.fail(explain(record, report), pytrace=False)


def test_clean_edits_cost_us_at_most_two_percent(case: Case, report: Mapping[str, Any]) -> None:
    if case.scenario.category != "clean":
        pytest.skip("no clean edit")
    ratio, upper = report["primary_metric"]["ratio_vs_baseline"], report["primary_metric"]["ci"][1]

    if upper > OUR_LIMIT:
        pytest.fail(f"perplexity ratio {ratio:.4f}, up to {upper:.4f}; our limit is {OUR_LIMIT}", pytrace=False)
