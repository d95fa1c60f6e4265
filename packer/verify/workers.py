"""Examining the reports of a large pack in processes of their own, one on each core.

Example::

    examined = examine_in_processes(files, [("baselines/m/evaluation.report.json", ["reports/m/…"])])
    examined["reports/m/noop_control/run_1/evaluation.report.json"]     # an ExaminedReport

A process opens the pack's folder itself, and compares what it reads with the digests that the verifier gives it. Orders
and answers are pickles in pipes between the two; nothing of the pack is unpickled. A report without an answer, because
its process ended, is examined by the verifier itself.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from invarlock.packer.format.contents import FilesRead, PackFiles, SealedFiles
from invarlock.packer.format.layout import model_folder
from invarlock.packer.format.pack_folder import open_pack
from invarlock.packer.format.places import neighbours
from invarlock.packer.verify.baselines import Baseline, read_baseline
from invarlock.packer.verify.plan import read_plan
from invarlock.packer.verify.presets import read_presets
from invarlock.packer.verify.report import ExaminedReport, examine_report

# Processes start in about a second, in which one derives 200 reports.
MIN_REPORTS = 256
# Reports of an order: few enough that all processes end at about the same time.
BATCH_REPORTS = 32
# More processes than this wait for the disk, and for the one that collects their answers.
MAX_PROCESSES = 32

Batch = tuple[str | None, tuple[str, ...]]


@dataclass(frozen=True)
class _Answer:
    reports: dict[str, ExaminedReport]
    read: FilesRead


def examine_in_processes(
    files: PackFiles, groups: Sequence[tuple[str | None, Sequence[str]]]
) -> dict[str, ExaminedReport]:
    """Return examined reports by path; none if the pack is small, not in a folder, or there is only one core.

    Args:
        files: the files of the pack; what other processes read counts as read.
        groups: the path of each baseline, None where it has no report of its own, with those of its reports.
    """
    batches: deque[Batch] = deque()
    for baseline, paths in groups:
        for first in range(0, len(paths), BATCH_REPORTS):
            batches.append((baseline, tuple(paths[first : first + BATCH_REPORTS])))
    count = min(len(os.sched_getaffinity(0)), len(batches), MAX_PROCESSES)
    if not isinstance(files, SealedFiles) or sum(len(paths) for _, paths in groups) < MIN_REPORTS or count < 2:
        return {}
    order = pickle.dumps((files.path, dict(files.digests)))
    with ThreadPoolExecutor(count) as threads:
        running = [threads.submit(_collect, order, batches) for _ in range(count)]
        answers = [answer for future in running for answer in future.result()]
    examined: dict[str, ExaminedReport] = {}
    for answer in answers:
        files.adopt(answer.read)
        examined |= answer.reports
    return examined


def _collect(order: bytes, batches: deque[Batch]) -> list[_Answer]:
    """Start a process, give it batches as long as there are any, and return its answers."""
    answers: list[_Answer] = []
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
    command = [sys.executable, "-c", code]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(order)
                while batches:
                    pickle.dump(batches.popleft(), process.stdin)
                    process.stdin.flush()
                    # written by our own process
                    answers.append(pickle.load(process.stdout))
            finally:
                process.kill()
    except (OSError, EOFError, IndexError, pickle.UnpicklingError):
        # it did not start or ended, or another thread took the last batch
        pass
    return answers


def serve() -> None:
    """Answer the orders that come through standard input, until it ends."""
    # an interrupt ends the verifier, and with it this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what a library prints must not be taken for an answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    path, digests = pickle.load(sys.stdin.buffer)  # written by the process that started this one
    with open_pack(path) as folder:
        examiner = _Examiner(SealedFiles(folder, digests))
        while True:
            try:
                batch: Batch = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            pickle.dump(examiner.examine(batch), answers)
            answers.flush()


class _Examiner:
    """What a process keeps between its batches: the plan, the presets, and the last baseline."""

    def __init__(self, files: SealedFiles) -> None:
        self._files = files
        self._plan = read_plan(files).plan
        self._presets, _ = read_presets(files)
        self._neighbours = neighbours(files.digests)
        self._baseline: tuple[str | None, Baseline | None] = (None, None)

    def examine(self, batch: Batch) -> _Answer:
        path, reports = batch
        if path != self._baseline[0]:
            self._baseline = (path, None if path is None else read_baseline(self._files, path)[0])
        examined = {
            report: examine_report(
                self._files,
                report,
                self._baseline[1],
                self._plan,
                self._presets.get(model_folder(report)),
                self._neighbours[report],
            )
            for report in reports
        }
        return _Answer(examined, self._files.take_read())
