"""The end of a run in a job of GitHub Actions: the job summary, and annotations for failures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from invarlock.harness.ending.finishing import Ending
from invarlock.reports.markdown import code_block
from invarlock.verdict.job_summary import failure_annotations, job_summary


def write_job_summary(ending: Ending) -> None:
    """Append the summary of a run to the job summary, if the service provides a file for it."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if file:
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(_summary(ending))


def annotation_lines(ending: Ending) -> Iterator[str]:
    """Yield the lines that annotate failures; none outside GitHub Actions."""
    if ending.verdict is not None and os.environ.get("GITHUB_ACTIONS") == "true":
        yield from failure_annotations(ending.verdict)


def _summary(ending: Ending) -> str:
    if ending.verdict is None:
        return code_block(ending.lines)
    server, repository, run = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    known = server and repository and run
    address = f"{server}/{repository}/actions/runs/{run}#artifacts" if known else None
    return job_summary(ending.verdict, ending.lines, address)
