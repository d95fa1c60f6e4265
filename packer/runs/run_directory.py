"""The layout of a run directory: its state, its reports, and the inputs of a pack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from invarlock.packer.format import layout

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model

# Folders that may contain links. Checkpoints may link into the hub's cache or to a user's folder, logs are only for
# people, and a pack is checked separately.
MAY_HOLD_LINKS = frozenset({"models", "logs", "evidence_pack", "sentinels"})


@dataclass(frozen=True)
class RunDirectory:
    """A run directory; it may not exist yet."""

    path: Path

    @property
    def state(self) -> Path:
        """Return the folder of the state that workers share; it is not part of a pack."""
        return self.path / "state"

    @property
    def shard(self) -> Path:
        """The file that identifies a shard and its run; it exists only in the run directory of a shard."""
        return self.state / "shard.json"

    @property
    def fleet(self) -> Path:
        """The file about the nodes of a fleet; it exists only in the run directory of the fleet's controller."""
        return self.state / "fleet.json"

    @property
    def outcomes(self) -> Path:
        """The folder of pytest's reports of finished cases; it exists only on a fleet's controller."""
        return self.state / "outcomes"

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
        """Return the default folder of the pack."""
        return self.path / "evidence_pack"

    @property
    def presets(self) -> Path:
        """The folder of calibrated presets; a subfolder per model has the null runs of its preset."""
        return self.path / "presets"

    def baseline_snapshot(self, model: Model) -> Path:
        """Return the folder of a model's baseline checkpoint."""
        return self.path / "models" / model.folder / "baseline"

    def kept_tokens(self, model: Model) -> Path:
        """Return the folder with the most probable tokens under a model's baseline."""
        snapshot = self.baseline_snapshot(model)
        return snapshot.with_name(f"{snapshot.name}_kept_tokens")

    def baseline_report(self, model: Model) -> Path:
        """Return the path of a model's baseline report."""
        return self.source_of(layout.baseline_path(model.folder))

    def subject(self, case: Case) -> Path:
        """Return the folder for a case's subject; each run of a scenario has its own, so runs can work in parallel."""
        prefix = "error_" if case.scenario.category == "error_injection" else ""
        suffix = "" if case.run == 1 else f"__run_{case.run}"
        return self.path / case.model.folder / "models" / f"{prefix}{case.scenario.id}{suffix}"

    def report(self, case: Case) -> Path:
        """Return the path of a case's report."""
        return self.source_of(f"reports/{case.report_folder}/{layout.REPORT_NAME}")

    @property
    def devices(self) -> Path:
        """The file that lists the devices that the run may use."""
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
        """The lock file of the session that uses the directory."""
        return self.state / "session.lock"

    @property
    def session_holder(self) -> Path:
        """The file that describes the session that holds the lock."""
        return self.state / "session.txt"

    def hung(self, case_id: str) -> Path:
        """Return the file with the stack traces of a worker whose case timed out."""
        return self.logs / f"{case_id}.hung.txt"

    @property
    def locks(self) -> Path:
        """Return the folder of the lock files."""
        return self.state / "locks"

    def lock(self, name: str) -> Path:
        """Return the path of a lock file."""
        return self.locks / f"{name}.lock"

    def worker_lock(self, worker: int) -> Path:
        """Return the file that a worker locks for its lifetime."""
        return self.lock(f"worker_{worker}")

    def links(self) -> Iterator[Path]:
        """Yield every symbolic link among the files and folders of reports, presets and state.

        The results of a run must be inside its folder, since the target of a link may be anything and may change at
        any time. The run directory itself may be a link.
        """
        for folder, folders, files in os.walk(self.path):
            folders[:] = sorted(name for name in folders if name not in MAY_HOLD_LINKS)
            yield from (path for name in (*folders, *sorted(files)) if (path := Path(folder) / name).is_symlink())

    def source_of(self, pack_path: str) -> Path:
        """Return the path in the run directory that corresponds to a pack path in ``reports/`` or ``baselines/``."""
        kind, model, rest = pack_path.split("/", 2)
        return self.path / model / {"baselines": "baseline"}.get(kind, kind) / rest
