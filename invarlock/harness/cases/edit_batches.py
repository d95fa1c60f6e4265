"""Making several edits of one model in one pass over its baseline.

A worker that needs an edited subject also prepares the subjects of the model's next cases in the same pass: its share
of them, and no more than fit on the disk. A case whose subject is already prepared renames it. Unused subjects are
removed when the session ends.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from invarlock.catalog.cases import Case
from invarlock.catalog.edit_specs import EditSpec
from invarlock.catalog.scenarios import EditGeneration
from invarlock.catalog.tuned_params import TunedParams
from invarlock.checkpoints.editing import EditSummary, apply_each_edit
from invarlock.edits import BY_NAME
from invarlock.errors import CheckpointError, EditError
from invarlock.harness.state.disk_pressure import measure_disk_usage
from invarlock.harness.state.locks import Locks
from invarlock.harness.state.run import Run
from invarlock.jsonio import read_json, write_json

# The maximum number of subjects made in one pass over the tensors; a larger number gains little.
MAX_AT_ONCE = 8
RECORD = "prepared.json"

_log = logging.getLogger(__name__)


class EditBatches:
    """Makes edited subjects for a worker.

    Args:
        run: the run.
        tuned: the tuned parameters of clean edits.
        locks: the locks of the run.
        case_ids: the cases of the run, in the plan's order.
        disk_bytes: the planned size of the run on its disk.
        leaves_gpu_edits: whether edits that compute on a GPU are only made for their own case, not beside another's.
    """

    def __init__(
        self,
        run: Run,
        tuned: TunedParams,
        locks: Locks,
        case_ids: Sequence[str],
        disk_bytes: int = 0,
        *,
        leaves_gpu_edits: bool = False,
    ) -> None:
        self._run = run
        self._tuned = tuned
        self._locks = locks
        self._disk_bytes = disk_bytes
        self._leaves_gpu_edits = leaves_gpu_edits
        self._edits = [
            case for case in run.catalog.planned(case_ids) if isinstance(case.scenario.generation, EditGeneration)
        ]
        # edits that cannot be applied; their own cases report the error, and no later pass tries them again
        self._refused: set[str] = set()

    def make(self, case: Case, snapshot: Path, subject: Path, *, alone: bool = False) -> EditSummary:
        """Make the subject of a case's edit in a new folder, which appears complete or not at all.

        If ``alone`` is true, the subjects of further cases are left to another process.

        Raises:
            EditError: when the edit cannot be applied to the model.
            CheckpointError: if the baseline is malformed, or writing fails.
        """
        with self._locks.acquire(_lock(case)):
            found = self._take(case, subject)
            if found is not None:
                return found
            with ExitStack() as stack:
                others = [
                    other
                    for other in ([] if alone else self._due(case, snapshot))
                    if stack.enter_context(self._locks.try_acquire(_lock(other))) and self._is_due(other)
                ]
                return self._make(case, others, snapshot, subject)

    def _make(self, case: Case, others: Sequence[Case], snapshot: Path, subject: Path) -> EditSummary:
        targets = {subject: self.spec(case)} | {self._prepared(other): self.spec(other) for other in others}
        for folder in targets:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            made = apply_each_edit(snapshot, targets)
        except CheckpointError:
            if not others:
                raise
            # a single subject may fit on the disk even if all of them did not
            return self._make(case, [], snapshot, subject)
        for folder, outcome in made.items():
            if isinstance(outcome, EditError):
                self._refused.add(str(targets[folder]))
            elif folder != subject:
                write_json(folder / RECORD, asdict(outcome))
        if others:
            _log.info("%d edits in one pass: %s", len(targets), ", ".join(map(str, targets.values())))
        own = made[subject]
        if isinstance(own, EditError):
            raise own
        return own

    def _take(self, case: Case, subject: Path) -> EditSummary | None:
        """Move a case's prepared subject into place and return how it was made; None if it was not prepared."""
        place = self._prepared(case)
        if not (place / RECORD).is_file():
            return None
        row = read_json(place / RECORD)
        (place / RECORD).unlink()
        place.rename(subject)
        return EditSummary(**row)

    def _due(self, case: Case, snapshot: Path) -> list[Case]:
        """Return the model's next cases to prepare in this pass, one for each distinct edit."""
        chosen: dict[str, Case] = {str(self.spec(case)): case}
        for other in self._edits:
            if other.model != case.model or not self._is_due(other):
                continue
            spec = self.spec(other)
            edit = BY_NAME[spec.edit]
            left = self._leaves_gpu_edits and edit.on_gpu
            if edit.takes_weights and not left and str(spec) not in self._refused:
                chosen.setdefault(str(spec), other)
        others = [other for other in chosen.values() if other.id != case.id]
        fair = math.ceil(len(chosen) / self._run.workers)
        return others[: max(0, min(MAX_AT_ONCE, fair, 1 + self.spare_subjects(snapshot)) - 1)]

    def _is_due(self, case: Case) -> bool:
        directory = self._run.directory
        there = (directory.report(case), directory.subject(case), self._prepared(case) / RECORD)
        return not any(path.exists() for path in there)

    def spare_subjects(self, snapshot: Path) -> int:
        """Return how many subjects fit on the disk beyond the planned ones."""
        directory = self._run.directory.path
        size = sum(path.stat().st_size for path in snapshot.iterdir() if path.is_file())
        still_planned = max(0, self._disk_bytes - measure_disk_usage(directory).total_bytes)
        spare = shutil.disk_usage(directory).free - self._run.settings.min_free_disk_gb * 1e9 - still_planned
        return max(0, int(spare // size))

    def spec(self, case: Case) -> EditSpec:
        """Return the edit of a case, with its tuned parameters."""
        generation = case.scenario.generation
        assert isinstance(generation, EditGeneration)
        return self._tuned.resolve(generation.for_model(case.model.id), case.model.id)

    def _prepared(self, case: Case) -> Path:
        subject = self._run.directory.subject(case)
        return subject.with_name(f"{subject.name}__prepared")


def _lock(case: Case) -> str:
    return f"edit_{case.id}"
