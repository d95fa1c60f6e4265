"""The bench on which a worker runs its cases: baselines made once, subjects made, measured and removed.

What all workers share (a model's snapshot and its baseline report) is made by whoever comes first, under a lock; the
others read it. A case is done when its ``runtime.manifest.json`` is there, which binds the report beside it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model, Text
from invarlock.catalog.scenarios import DeployableGeneration, EditGeneration
from invarlock.catalog.tuned_params import TunedParams, read_tuned_params
from invarlock.checkpoints.digests import digest_file
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.edits.application import apply_edits
from invarlock.errors import UsageError
from invarlock.evaluation.comparison import (
    Measured,
    WindowPlan,
    compare,
    draw_runs,
    measure_baseline,
)
from invarlock.evaluation.documents import (
    Edited,
    Setup,
    baseline_document,
    probe_document,
    reference,
    report_document,
    telemetry,
)
from invarlock.evaluation.models import Placement
from invarlock.evaluation.text import SourceText, read_embedded_text
from invarlock.evaluation.windows import Draw
from invarlock.faults.injection import inject_fault
from invarlock.harness.resuming import kept_baseline, kept_report
from invarlock.harness.run import Run
from invarlock.jsonio import check_schema, dump_json, read_json, write_bytes, write_json
from invarlock.reports.policy import profile_windows, resolve_policy
from invarlock.reports.probes import file_name, probes_asked
from invarlock.reports.repeats import FILE_NAME as REPEATS_NAME
from invarlock.reports.repeats import repeats_document
from invarlock.reports.sidecars import REPORT_NAME, edit_metadata, runtime_manifest
from invarlock.runtime.determinism import apply_determinism

# The slowest baseline of the full suite takes minutes; a lock held this long belongs to a worker that hangs.
LOCK_TIMEOUT_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class Made:
    """What a subject was made by: for its report and its ``edit_metadata.json``."""

    name: str
    label: str
    spec: str
    scope: str | None
    parameters: Mapping[str, Any]
    edited_tensors: int
    edited_params: int
    total_params: int
    seconds: float


class Bench:
    """A worker's bench. It keeps the text, and the draws and baseline report of the model it is at."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.suite = run.catalog.models.suites[run.catalog.suite]
        self.plan = window_plan(run)
        self.placement = Placement("cuda" if self.suite.requires == "gpu" else "cpu")
        self.policy = resolve_policy(run.settings["tier"], run.settings["profile"], {})
        self.tuned: TunedParams = read_tuned_params(run.tuned_params_path)
        self._text: SourceText | None = None
        self._draws: dict[tuple[str, int], Draw] = {}
        self._checked: set[str] = set()
        apply_determinism(run.settings["determinism"], run.workers)

    @property
    def text(self) -> SourceText:
        if self._text is None:
            source = suite_text(self.run)
            self._text = read_embedded_text(self.run.suites_folder / source.source, source.sha256)
        return self._text

    def evaluate(self, case: Case) -> dict[str, Any]:
        """Run a case and return its report with its probes, which are then on disk with its sidecars.

        Raises:
            InvarLockError: when the baseline is not the one pinned, the subject cannot be made, or it does not fit.
        """
        snapshot, baseline = self._baseline(case)
        repeats = self.run.settings["repeats"] if case.scenario.category == "clean" else 0
        if self.run.settings["resume"]:
            digest = f"sha256:{digest_file(self.run.directory.baseline_report(case.model))}"
            path, spec = self.run.directory.report(case), self._spec(case)
            kept = kept_report(case, path, self._setup(case.model), baseline, digest, spec, repeats)
            if kept is not None:
                return kept
        subject = self.run.directory.subject(case)
        shutil.rmtree(subject, ignore_errors=True)
        try:
            made = self._make_subject(case, snapshot, subject)
            draw = self._draw(case.model, case.run)
            against = reference(baseline, case.run, probe=bool(probes_asked(case.scenario.document)))
            measured, *again = (
                compare(subject, against, draw, self.plan, self.placement, self.policy["variance"])
                for _ in range(1 + repeats)
            )
        finally:
            if not self.run.settings["keep_models"]:
                shutil.rmtree(subject, ignore_errors=True)
        return self._write(case, baseline, draw, made, measured, again)

    def _baseline(self, case: Case) -> tuple[Path, dict[str, Any]]:
        """Return the snapshot of a case's model and its baseline report, made by the first worker that needs them."""
        model, directory = case.model, self.run.directory
        snapshot, path = directory.baseline_snapshot(model), directory.baseline_report(model)
        lock = directory.lock(f"baseline_{model.folder}")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock, timeout=LOCK_TIMEOUT_SECONDS):
            if self.run.settings["resume"] and model.id not in self._checked:
                # what an earlier run left is looked at once by each worker
                self._make_snapshot(model, snapshot)
                kept_baseline(path, self._setup(model), probe=self._is_probed(model))
                self._checked.add(model.id)
            if not path.is_file():
                self._make_baseline(model, snapshot, path)
        document: dict[str, Any] = read_json(path)
        check_schema(document, "baseline_report", where=str(path))
        return snapshot, document

    def _make_snapshot(self, model: Model, snapshot: Path) -> None:
        if model.path is None:
            raise UsageError(f"{model.id}: models without a path cannot be obtained by this version")
        folder = self.run.suites_folder
        tokenizer = None if model.tokenizer_path is None else folder / model.tokenizer_path
        make_snapshot(folder / model.path, tokenizer, snapshot, model.revision)

    def _spec(self, case: Case) -> str:
        """Return what a case's subject is made by, as its report says it."""
        generation = case.scenario.generation
        if isinstance(generation, EditGeneration):
            return str(self.tuned.resolve(generation.for_model(case.model.id), case.model.id))
        return generation.backend if isinstance(generation, DeployableGeneration) else generation.error_type

    def _make_baseline(self, model: Model, snapshot: Path, path: Path) -> None:
        self._make_snapshot(model, snapshot)
        runs = {case.run for case in self.run.catalog.cases if case.model == model}
        draws = {run: self._draw(model, run) for run in sorted(runs)}
        baseline = measure_baseline(snapshot, draws, self.plan, self.placement, probe=self._is_probed(model))
        write_json(path.with_name("evaluate_timing.json"), telemetry(baseline.seconds))
        write_json(path, baseline_document(self._setup(model), baseline))

    def _is_probed(self, model: Model) -> bool:
        """Tell whether a case of this run reads a probe of the model."""
        manifest = read_json(self.run.directory.state / "scenarios.json")
        probed = {row["id"] for row in manifest["scenarios"] if probes_asked(row)}
        return any(row["scenario"] in probed for row in manifest["selection"]["cases"] if row["model"] == model.id)

    def _draw(self, model: Model, run: int) -> Draw:
        key = (model.id, run)
        if key not in self._draws:
            snapshot = self.run.directory.baseline_snapshot(model)
            self._draws[key] = draw_runs(snapshot, self.text, self.plan, [run])[run]
        return self._draws[key]

    def _make_subject(self, case: Case, snapshot: Path, subject: Path) -> Made:
        started = time.perf_counter()
        generation = case.scenario.generation
        if isinstance(generation, EditGeneration):
            spec = self.tuned.resolve(generation.for_model(case.model.id), case.model.id)
            edited = apply_edits(snapshot, {subject: spec})[subject]
            return Made(
                name=spec.edit,
                label=spec.edit,
                spec=str(spec),
                scope=None if spec.scope is None else str(spec.scope),
                parameters=spec.parameters,
                edited_tensors=edited.edited_tensors,
                edited_params=edited.edited_params,
                total_params=edited.total_params,
                seconds=time.perf_counter() - started,
            )
        if isinstance(generation, DeployableGeneration):
            raise UsageError(f"{case.scenario.id}: deployable subjects cannot be made by this version")
        fault = inject_fault(generation.error_type, snapshot, subject, generation.for_model(case.model.id))
        before, after = read_checkpoint(snapshot), read_checkpoint(subject).entries
        changed = [after.get(name) or before.entries[name] for name in fault.changed_tensors]
        return Made(
            name=fault.error_type,
            label=fault.error_type,
            spec=fault.error_type,
            scope=None,
            parameters=fault.parameters_used,
            edited_tensors=len(fault.changed_tensors),
            edited_params=sum(entry.elements for entry in changed),
            total_params=before.total_parameters,
            seconds=time.perf_counter() - started,
        )

    def _write(
        self,
        case: Case,
        baseline: dict[str, Any],
        draw: Draw,
        made: Made,
        measured: Measured,
        again: Sequence[Measured],
    ) -> dict[str, Any]:
        path = self.run.directory.report(case)
        digest = f"sha256:{digest_file(self.run.directory.baseline_report(case.model))}"
        report, *repeats = (
            report_document(
                self._setup(case.model),
                baseline,
                digest,
                case.scenario.id,
                case.run,
                Edited(made.name, made.label, made.spec, made.parameters),
                draw,
                one,
                made.seconds,
            )
            for one in (measured, *again)
        )
        if repeats:
            write_json(path.with_name(REPEATS_NAME), repeats_document(report, repeats))
        data = dump_json(report)
        probes = {
            name: probe_document(name, baseline, measured, report) for name in probes_asked(case.scenario.document)
        }
        for name, document in probes.items():
            write_json(path.with_name(file_name(name)), document)
        write_json(
            path.with_name("edit_metadata.json"),
            edit_metadata(
                scenario=case.scenario.document,
                edit_type=made.name,
                label=made.label,
                scope=made.scope,
                parameters=made.parameters,
                edited_tensors=made.edited_tensors,
                edited_params=made.edited_params,
                total_params=made.total_params,
                subject_digest=measured.digest,
                baseline_digest=baseline["baseline"]["digest"],
            ),
        )
        write_json(path.with_name("evaluate_timing.json"), report["telemetry"])
        write_bytes(path, data)
        written = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        place = PurePosixPath("reports") / case.report_folder / REPORT_NAME
        write_json(path.with_name("runtime.manifest.json"), runtime_manifest(data, place, report["context"], written))
        return {**report, **probes}

    def _setup(self, model: Model) -> Setup:
        settings = self.run.settings
        context = {
            "suite": self.suite.name,
            "profile": settings["profile"],
            "tier": settings["tier"],
            "determinism": settings["determinism"],
            "execution_mode": "host-bypass",
        }
        return Setup(model.id, model.revision, context, self.placement, self.plan, self.text)


def suite_text(run: Run) -> Text:
    """Return the text that a run's suite is scored on.

    Raises:
        UsageError: when the suite names none.
    """
    suite = run.catalog.models.suites[run.catalog.suite]
    if suite.text is None:
        raise UsageError(f"suite {suite.name!r} names no text; add a [suite.text] table to models.toml")
    return suite.text


def window_plan(run: Run) -> WindowPlan:
    """Return how much text is scored: settings beat the suite's numbers, those beat the profile's."""
    text, settings = suite_text(run), run.settings
    preview, final = text.preview_windows, text.final_windows
    if settings.sources["profile"] != "default":
        preview, final = profile_windows(settings["profile"])
    return WindowPlan(
        seq_len=settings["seq_len"] or text.seq_len,
        preview=settings["preview_windows"] or preview,
        final=settings["final_windows"] or final,
        seed=settings["window_seed"],
        batch_size=settings["eval_batch"],
    )
