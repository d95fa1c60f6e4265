"""The layout of a run directory: where a run keeps its state, its reports, and what a pack is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from invarlock.packer.format import layout

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model

# Checkpoints may be links, into the hub's cache or to a user's own; people read logs, and a pack is checked by itself.
MAY_HOLD_LINKS = frozenset({"models", "logs", "evidence_pack", "sentinels"})


@dataclass(frozen=True)
class RunDirectory:
    """A run directory, which need not exist yet."""

    path: Path

    @property
    def state(self) -> Path:
        """Return the folder of what workers share, which no pack holds."""
        return self.path / "state"

    @property
    def shard(self) -> Path:
        """Which part of which run this is; only in the run directory of a shard."""
        return self.state / "shard.json"

    @property
    def verdict(self) -> Path:
        """Return the path of the verdict."""
        return self.path / "reports" / "final_verdict.json"

    @property
    def analysis(self) -> Path:
        """Return the folder of the summaries."""
        return self.path / "analysis"

    @property
    def pack(self) -> Path:
        """Return the folder of the pack, where no other is given."""
        return self.path / "evidence_pack"

    @property
    def presets(self) -> Path:
        """Calibrated presets, and for each model a folder of the null runs that its preset follows from."""
        return self.path / "presets"

    def baseline_snapshot(self, model: Model) -> Path:
        """Return the folder of a model's baseline checkpoint."""
        return self.path / "models" / model.folder / "baseline"

    def baseline_report(self, model: Model) -> Path:
        """Return the path of a model's baseline report."""
        return self.source_of(layout.baseline_path(model.folder))

    def subject(self, case: Case) -> Path:
        """Return where a case's subject is made; runs of one scenario may be made at the same time."""
        prefix = "error_" if case.scenario.category == "error_injection" else ""
        suffix = "" if case.run == 1 else f"__run_{case.run}"
        return self.path / case.model.folder / "models" / f"{prefix}{case.scenario.id}{suffix}"

    def report(self, case: Case) -> Path:
        """Return the path of a case's report."""
        return self.source_of(f"reports/{case.report_folder}/{layout.REPORT_NAME}")

    @property
    def devices(self) -> Path:
        """What the run may compute on."""
        return self.state / "devices.json"

    @property
    def logs(self) -> Path:
        """Return the folder of the log files."""
        return self.path / "logs"

    def log(self, case: Case) -> Path:
        """Return the path of a case's log file."""
        return self.logs / f"{case.id}.log"

    @property
    def session_lock(self) -> Path:
        """What the session that works in the directory has locked."""
        return self.state / "session.lock"

    @property
    def session_holder(self) -> Path:
        """Who has locked it, in words."""
        return self.state / "session.txt"

    def hung(self, case_id: str) -> Path:
        """Return where it is written what a case's worker did when the case's time was over."""
        return self.logs / f"{case_id}.hung.txt"

    @property
    def locks(self) -> Path:
        """Return the folder of the lock files."""
        return self.state / "locks"

    def lock(self, name: str) -> Path:
        """Return the path of a lock file."""
        return self.locks / f"{name}.lock"

    def worker_lock(self, worker: int) -> Path:
        """Return what a worker has locked for as long as it lives."""
        return self.lock(f"worker_{worker}")

    def links(self) -> Iterator[Path]:
        """Yield each link among the folders and files that reports, presets and state are read from.

        What a run measured lies in its folder; behind a link there may be anything, and something else a moment
        later. The run directory itself may be named by a link.
        """
        for folder, folders, files in os.walk(self.path):
            folders[:] = sorted(name for name in folders if name not in MAY_HOLD_LINKS)
            yield from (path for name in (*folders, *sorted(files)) if (path := Path(folder) / name).is_symlink())

    def source_of(self, pack_path: str) -> Path:
        """Return where a file of a pack's ``reports/`` or ``baselines/`` lies in the run: below its model."""
        kind, model, rest = pack_path.split("/", 2)
        return self.path / model / {"baselines": "baseline"}.get(kind, kind) / rest
