"""Test that every scenario on every model has the outcome that the scenario expects."""

from collections.abc import Mapping
from typing import Any

import pytest

from invarlock.harness.judging import explain


def test_scenario(record: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    if not record["passed"]:
        pytest.fail(explain(record, report), pytrace=False)
