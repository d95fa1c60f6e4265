"""Every scenario on every model: is what was seen what the scenario expects?"""

from collections.abc import Mapping
from typing import Any

import pytest

from invarlock.catalog.cases import Case
from invarlock.harness.judging import explain, judge_case


def test_scenario(case: Case, report: Mapping[str, Any]) -> None:
    record = judge_case(case, report)

    if not record["passed"]:
        pytest.fail(explain(record, report), pytrace=False)
