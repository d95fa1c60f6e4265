"""``invarlock evaluate`` in this process, on a small amount of the embedded text."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from invarlock.cli import main

TEXT = Path(__file__).parents[2] / "suites" / "embedded" / "text" / "austen_heldout.txt.xz"
SMALL = ("--seq-len", "64", "--preview-windows", "8", "--final-windows", "16")


def evaluate_small(baseline: Path, subject: Path, output: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run a small evaluation, on Austen unless options name texts.

    Return the exit code, the report (empty if none was written) and the printed lines.
    """
    printed = io.StringIO()
    folders = ("--baseline", str(baseline), "--subject", str(subject), "--output-dir", str(output))
    with redirect_stdout(printed), redirect_stderr(printed):
        text = () if "--text" in options else ("--text", str(TEXT))
        code = main(["evaluate", *folders, *text, *SMALL, *options])
    report = output / "evaluation.report.json"
    return code, json.loads(report.read_bytes()) if report.is_file() else {}, printed.getvalue()
