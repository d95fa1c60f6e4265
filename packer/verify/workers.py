"""Examining the reports of a large pack in several processes, one on each core.

Example::

    groups = [("baselines/m/evaluation.report.json", ["reports/m/…"])]
    examined = examine_in_processes(files, groups, SharedValues())
    examined["reports/m/noop_control/run_1/evaluation.report.json"]     # an ExaminedReport

Each process opens the pack's folder itself, and compares what it reads with digests that it gets from the verifier.
Orders and answers are pickles in pipes between the two; nothing in the pack is unpickled. If a process ends before it
answered, the verifier examines the remaining reports itself.
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
from dataclasses import dataclass, replace

from invarlock.packer.format.contents import FilesRead, PackFiles, SealedFiles
from invarlock.packer.format.layout import model_folder
from invarlock.packer.format.pack_folder import open_pack
from invarlock.packer.format.places import neighbours
from invarlock.packer.verify.baselines import Baseline, read_baseline
from invarlock.packer.verify.plan import read_plan
from invarlock.packer.verify.presets import read_presets
from invarlock.packer.verify.report import ExaminedReport, examine_report
from invarlock.packer.verify.shared_values import SharedValues

from invarlock.machine_limits import usable_cores

# Starting the processes takes about a second; in that time, one process derives 200 reports.
MIN_REPORTS = 256
# The number of reports in a batch, small enough that all processes end at about the same time.
BATCH_REPORTS = 32
# Additional processes would only wait for the disk, and for the process that collects the answers.
MAX_PROCESSES = 32

Batch = tuple[str | None, tuple[str, ...]]


@dataclass(frozen=True)
class _Answer:
    reports: dict[str, ExaminedReport]
    read: FilesRead


def examine_in_processes(
    files: PackFiles, groups: Sequence[tuple[str | None, Sequence[str]]], shared: SharedValues
) -> dict[str, ExaminedReport]:
    """Return the examined reports by path; none if the pack is small or not in a folder, or there is only one core.

    Args:
        files: the files of the pack; a file read by another process is marked as read.
        groups: the path of each baseline's own report (None if the pack lacks it), with the paths of the reports
            measured against it.
        shared: the values that their facts share.
    """
    batches: deque[Batch] = deque()
    for baseline, paths in groups:
        for first in range(0, len(paths), BATCH_REPORTS):
            batches.append((baseline, tuple(paths[first : first + BATCH_REPORTS])))
    count = min(usable_cores(), len(batches), MAX_PROCESSES)
    if not isinstance(files, SealedFiles) or sum(len(paths) for _, paths in groups) < MIN_REPORTS or count < 2:
        return {}
    order = pickle.dumps((files.path, dict(files.digests)))
    with ThreadPoolExecutor(count) as threads:
        running = [threads.submit(_collect, order, batches, shared) for _ in range(count)]
        answers = [answer for future in running for answer in future.result()]
    examined: dict[str, ExaminedReport] = {}
    for answer in answers:
        files.adopt(answer.read)
        examined |= answer.reports
    return examined


def _collect(order: bytes, batches: deque[Batch], shared: SharedValues) -> list[_Answer]:
    """Start a process, give it batches until none are left, and return its answers."""
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
                    # safe to unpickle: written by our own process
                    answer: _Answer = pickle.load(process.stdout)
                    reports = {path: shared.examined(report) for path, report in answer.reports.items()}
                    answers.append(replace(answer, reports=reports))
            finally:
                process.kill()
    except (OSError, EOFError, IndexError, pickle.UnpicklingError):
        # the process did not start or ended early, or another thread took the last batch
        pass
    return answers


def serve() -> None:
    """Answer the orders on standard input until it is closed."""
    # an interrupt ends the verifier, which then ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # answers get their own descriptor, so that a library's output is not mistaken for an answer
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
    """The state that a process keeps between batches: the plan, the presets, and the last baseline."""

    def __init__(self, files: SealedFiles) -> None:
        self._files = files
        self._plan = read_plan(files).plan
        self._presets, _ = read_presets(files)
        self._neighbours = neighbours(files.digests)
        self._baseline: tuple[str | None, Baseline | None] = (None, None)
        self._shared = SharedValues()

    def examine(self, batch: Batch) -> _Answer:
        path, reports = batch
        if path != self._baseline[0]:
            self._baseline = (path, None if path is None else read_baseline(self._files, path)[0])
        # pickle writes an object once, however many reports share it
        examined = {report: self._shared.examined(self._examine(report)) for report in reports}
        return _Answer(examined, self._files.take_read())

    def _examine(self, report: str) -> ExaminedReport:
        preset = self._presets.get(model_folder(report))
        return examine_report(self._files, report, self._baseline[1], self._plan, preset, self._neighbours[report])
