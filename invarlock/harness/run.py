"""A run: what is validated, by which settings, and where its files go. The run directory is the state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model
from invarlock.harness.selection import Catalog
from invarlock.settings import Settings


@dataclass(frozen=True)
class RunDirectory:
    """The layout of a run directory."""

    path: Path

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def verdict(self) -> Path:
        return self.path / "reports" / "final_verdict.json"

    @property
    def pack(self) -> Path:
        return self.path / "evidence_pack"

    def baseline_snapshot(self, model: Model) -> Path:
        return self.path / "models" / model.folder / "baseline"

    def baseline_report(self, model: Model) -> Path:
        return self.path / model.folder / "baseline" / "evaluation.report.json"

    def subject(self, case: Case) -> Path:
        prefix = "error_" if case.scenario.category == "error_injection" else ""
        return self.path / case.model.folder / "models" / f"{prefix}{case.scenario.id}"

    def report(self, case: Case) -> Path:
        folder = case.report_folder.removeprefix(f"{case.model.folder}/")
        return self.path / case.model.folder / "reports" / folder / "evaluation.report.json"

    def lock(self, name: str) -> Path:
        return self.state / "locks" / f"{name}.lock"


@dataclass(frozen=True)
class Run:
    """Everything that stays the same from the first case to the verdict."""

    suites_folder: Path
    settings: Settings
    catalog: Catalog
    directory: RunDirectory
    workers: int
    started: datetime
    expression: dict[str, str]

    @property
    def tuned_params_path(self) -> Path:
        given = self.settings["tuned_params_file"]
        return Path(given) if given else self.suites_folder / "tuned_edit_params.json"

    @property
    def pack_path(self) -> Path:
        given = self.settings["pack_dir"]
        return Path(given).resolve() if given else self.directory.pack
