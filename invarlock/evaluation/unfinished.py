"""Keeps the measured baseline of an interrupted evaluation, so that the same command can continue from it.

Example::

    folder = unfinished_folder(Path("out"))     # out.unfinished
    request = go_on(request, folder)            # with the baseline's report in it, if it is of the same setup
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from invarlock.errors import InvarLockError
from invarlock.evaluation.pair_documents import check_documents
from invarlock.evaluation.pair_request import PairRequest
from invarlock.reports.sidecars import REPORT_NAME


def unfinished_folder(target: Path) -> Path:
    """Return the folder for the results that an interrupted evaluation into ``target`` leaves."""
    return target.with_name(f"{target.name}.unfinished")


def keep_baseline(kind: type[BaseException] | None, baseline: Path, target: Path) -> None:
    """Move a measured baseline out of an evaluation that was interrupted.

    Args:
        kind: the class of the exception that ended it.
        baseline: the folder with the baseline's report.
        target: the folder that the evaluation would have written.
    """
    folder = unfinished_folder(target)
    if kind is None or not issubclass(kind, KeyboardInterrupt) or not (baseline / REPORT_NAME).is_file():
        return
    # if this fails, everything is measured again
    with suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)
        baseline.rename(folder)


def go_on(request: PairRequest, folder: Path) -> PairRequest:
    """Return the request with the baseline's report of an interrupted evaluation, if there is a usable one.

    A report of another setup is ignored here; measuring compares the rest.
    """
    if request.baseline_report is not None or not (folder / REPORT_NAME).is_file():
        return request
    found = replace(request, baseline_report=folder / REPORT_NAME)
    try:
        check_documents(found)
    except InvarLockError:
        return request
    return found
