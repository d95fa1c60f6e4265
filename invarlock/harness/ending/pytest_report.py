"""Reducing pytest's record of the cases for a pack: paths and names of the machine are removed."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invarlock.documents.runs import CaseOutcome, PytestReport
from invarlock.errors import UsageError
from invarlock.problems import Code

# A failure message is a short table; a longer message is a traceback, whose end says what happened.
MAX_MESSAGE_CHARACTERS = 500
# The outcome of a case that is run once more because its worker died.
RERUN = "rerun"
# Where pytest-json-report writes by default.
DEFAULT_FILE = ".report.json"
# Fields that the reduced report omits, so that a run of ten thousand cases need not keep them in memory.
OMITTED = ("collectors", "keywords", "log", "streams", "traceback", "warnings")

_ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(?:[\w.+@-]+/)+(?=[\w.+@-])")
# xdist begins a message with its worker's platform and interpreter
_WORKER = re.compile(r"\[gw\d+\] \S+ -- Python \S+ \S+\s*")


def ask_for_json_report(option: argparse.Namespace) -> None:
    """Make pytest-json-report record how each case ended; it writes a file only if the user requests one.

    Raises:
        UsageError: if the plugin is missing, or an option makes it omit the cases.
    """
    if not hasattr(option, "json_report"):
        raise UsageError(
            "pytest-json-report is not installed, but the verdict needs its report of the cases; run: pip install "
            "pytest-json-report, or drop -p no:jsonreport",
            code=Code.EXTRA_NOT_INSTALLED,
        )
    if not hasattr(option, "tbstyle"):
        raise UsageError(
            "-p no:terminal removes options that pytest-json-report needs; use -qq", code=Code.OPTIONS_CONFLICT
        )
    if option.json_report_summary:
        raise UsageError(
            "--json-report-summary omits the cases, which the verdict needs; drop it", code=Code.OPTIONS_CONFLICT
        )
    if option.json_report:
        return
    option.json_report = True
    if option.json_report_file == DEFAULT_FILE:
        option.json_report_file, option.json_report_verbosity = None, 0
        option.json_report_omit = [*OMITTED]


def reduce_pytest_report(report: Mapping[str, Any], run_directory: Path) -> PytestReport:
    """Return ``pytest_report.json`` from the document of pytest-json-report.

    Tests are sorted, because the order in which workers finish has no meaning.
    """
    tests = sorted((_reduce_test(test, run_directory) for test in report["tests"]), key=lambda test: test["nodeid"])
    counts = Counter(test["outcome"] for test in tests)
    selected = {key: report["summary"][key] for key in ("collected", "deselected") if key in report.get("summary", {})}
    return {
        "exitcode": int(report.get("exitcode", -1)),
        "summary": {**selected, **dict(sorted(counts.items())), "total": len(tests)},
        "tests": tests,
    }


def _reduce_test(test: Mapping[str, Any], run_directory: Path) -> CaseOutcome:
    # the stages are setup, call and teardown; if the worker died, the stage is called "???"
    stages = [stage for stage in test.values() if isinstance(stage, Mapping) and "outcome" in stage]
    failed = next((stage for stage in stages if stage.get("outcome") == "failed"), None)
    outcome = test["outcome"]
    if outcome == RERUN:
        # the first worker died, so the outcome on the second one counts
        rest = [stage["outcome"] for stage in stages if stage["outcome"] != RERUN]
        outcome = "failed" if "failed" in rest or not rest else "passed"
    return {
        "nodeid": test["nodeid"],
        "outcome": outcome,
        "seconds": round(sum(stage.get("duration", 0.0) for stage in stages), 3),
        "message": "" if failed is None else _message(failed, run_directory),
    }


def _message(stage: Mapping[str, Any], run_directory: Path) -> str:
    crash = stage.get("crash")
    text = crash["message"] if isinstance(crash, Mapping) else str(stage.get("longrepr", ""))
    text = _WORKER.sub("", text).replace(f"{run_directory}/", "")
    line = " ".join(_ABSOLUTE_PATH.sub("", text).split())
    return line if len(line) <= MAX_MESSAGE_CHARACTERS else f"{line[: MAX_MESSAGE_CHARACTERS - 3]}..."
