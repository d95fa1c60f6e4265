"""Fixtures of the suites. The plugin defines ``case``, ``report`` and ``case_runner``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from invarlock.catalog.cases import Case
from invarlock.harness.judging import judge_case


@pytest.fixture
def record(case: Case, report: Mapping[str, Any]) -> Any:
    """The verdict's record of the case: what was expected, what was seen, and whether that passes."""
    return judge_case(case, report)
