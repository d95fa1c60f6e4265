"""Writing pytest's reports of a piece's cases, one per line, for the controller to replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


class PieceOutcomes:
    """Writes each report at once, so that a session that dies leaves the reports of its finished cases."""

    def __init__(self, path: Path, config: pytest.Config) -> None:
        self._path, self._config = path, config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Append a report."""
        document = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(document) + "\n")
