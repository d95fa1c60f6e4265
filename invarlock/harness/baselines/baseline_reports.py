"""The baselines of a run: their snapshots, reports and windows.

The first worker that needs a model's snapshot or baseline report makes it under a lock; the others read it. Each
worker caches the text, the draws and the parsed reports that it has read.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from invarlock.catalog.models import Model
from invarlock.checkpoints.revisions import model_folder
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.digests import digest_bytes
from invarlock.documents.reports import BaselineReport
from invarlock.evaluation.comparison import draw_runs, measure_baseline
from invarlock.evaluation.documents import baseline_document, telemetry
from invarlock.evaluation.kept_tokens import check_kept, kept_file, kept_folder
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.request import Setup, StoredBaseline
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.windows import Draw
from invarlock.harness.baselines.resuming import kept_baseline
from invarlock.harness.sources.finding import run_pins
from invarlock.harness.sources.texts import read_suite_text, slice_counts, suite_texts, window_counts
from invarlock.harness.state.locks import Locks
from invarlock.harness.state.run import Run
from invarlock.jsonio import check_schema, parse_json, read_file, read_json, write_json
from invarlock.reports.policy import overrides_of, slice_overrides
from invarlock.reports.probes import required_probes


class Baselines:
    """One worker's cache of the baselines of its run."""

    def __init__(self, run: Run, placement: Placement, locks: Locks) -> None:
        self.run = run
        self.placement = placement
        self._locks = locks
        self.plan = window_plan(run)
        self.pins = run_pins(run)
        self._text: SourceText | None = None
        self._tokens: dict[str, dict[int, Draw]] = {}
        self._read: dict[str, StoredBaseline] = {}
        self._snapshots: set[str] = set()

    @property
    def text(self) -> SourceText:
        """Return the text of the run; each worker reads it once."""
        if self._text is None:
            self._text = read_suite_text(self.run, self.pins)
        return self._text

    def baseline(self, model: Model, placement: Placement) -> StoredBaseline:
        """Return the baseline of a model; the first worker that needs it measures it.

        Args:
            model: the model.
            placement: the devices to use if this worker has to measure the baseline.

        Raises:
            InvarLockError: if the snapshot does not match its pin, or the baseline cannot be measured.
        """
        if model.id not in self._read:
            self._read[model.id] = self._shared(model, placement)
        return self._read[model.id]

    def snapshot(self, model: Model) -> Path:
        """Return a model's snapshot; each worker makes or checks it once.

        Raises:
            InvarLockError: if the snapshot does not match its pin.
        """
        snapshot = self.run.directory.baseline_snapshot(model)
        if model.id not in self._snapshots:
            with self._locks.acquire(f"baseline_{model.folder}"):
                self._make_snapshot(model, snapshot)
            self._snapshots.add(model.id)
        return snapshot

    def draw(self, model: Model, run: int) -> Draw:
        """Return the windows of a run. The windows of all runs of a model are drawn together, so the text is tokenised
        once."""
        if model.id not in self._tokens:
            runs = {case.run for case in self.run.catalog.cases if case.model == model}
            snapshot = self.run.directory.baseline_snapshot(model)
            self._tokens[model.id] = draw_runs(snapshot, self.text, self.plan, sorted(runs))
        return self._tokens[model.id][run]

    def setup(self, model: Model) -> Setup:
        """Return the fields that all documents of a model share."""
        settings = self.run.settings
        context = {
            "suite": self.run.catalog.suite,
            "profile": settings.profile,
            "tier": settings.tier,
            "determinism": settings.determinism,
            "execution_mode": self.run.executed,
        }
        return Setup(
            model.id,
            self.pins.models[model.id].revision,
            context,
            self.placement,
            self.plan,
            self.text,
            guards=settings.guards_order,
            overrides={**overrides_of(settings.intent), **self._slice_overrides()},
            store_tokens=settings.store_eval_windows,
            image=self.run.image,
            allow_network=settings.net,
            allow_remote_code=self.run.runs_code_of(model),
            # a model's baseline is measured once, for all of its cases
            reuses_baseline=True,
            defers_rendering=settings.defer_rendering,
        )

    def _slice_overrides(self) -> dict[str, Any]:
        limits = {str(text.name): text.limits for text in suite_texts(self.run) if text.limits}
        return slice_overrides(limits, self.run.settings.tier)

    def _shared(self, model: Model, placement: Placement) -> StoredBaseline:
        directory = self.run.directory
        snapshot, path = directory.baseline_snapshot(model), directory.baseline_report(model)
        with self._locks.acquire(f"baseline_{model.folder}"):
            if self.run.settings.resume:
                # each worker checks a snapshot from an earlier run once
                self._make_snapshot(model, snapshot)
                kept_baseline(path, self.setup(model), kept_folder(snapshot), probe=self._is_probed(model))
            if not path.is_file():
                self._make_snapshot(model, snapshot)
                # these files belong to a report that no longer exists, and perhaps to other draws
                shutil.rmtree(kept_folder(snapshot), ignore_errors=True)
                self._measure(model, snapshot, path, placement)
        data = read_file(path)
        document: BaselineReport = parse_json(data, where=str(path))
        check_schema(document, "baseline_report", where=str(path))
        for draw in document["draws"]:
            check_kept(kept_file(kept_folder(snapshot), draw["run"]), draw["fidelity"])
        return StoredBaseline(snapshot, document, digest_bytes(data))

    def _make_snapshot(self, model: Model, snapshot: Path) -> None:
        pin, suites = self.pins.models[model.id], self.run.suites_folder
        tokenizer = None if model.tokenizer_path is None else suites / model.tokenizer_path
        source = model_folder(pin) if model.path is None else suites / model.path
        storage = self.run.settings.baseline_storage_mode
        code = pin.code if self.run.runs_code_of(model) else {}
        make_snapshot(source, tokenizer, snapshot, pin.digest, storage, code)

    def _measure(self, model: Model, snapshot: Path, path: Path, placement: Placement) -> None:
        runs = {case.run for case in self.run.catalog.cases if case.model == model}
        draws = {run: self.draw(model, run) for run in sorted(runs)}
        measured = measure_baseline(snapshot, draws, self.plan, placement, probe=self._is_probed(model))
        write_json(path.with_name("evaluate_timing.json"), telemetry(measured.seconds))
        write_json(path, baseline_document(self.setup(model), measured))

    def _is_probed(self, model: Model) -> bool:
        """Return whether a case of this run, or of another shard of it, reads a probe of the model."""
        directory = self.run.directory
        if self.run.settings.shard is None:
            manifest = read_json(directory.state / "scenarios.json")
        else:
            # all shards must measure the same baseline
            manifest = read_json(directory.shard)["whole"]
        probed = {row["id"] for row in manifest["scenarios"] if required_probes(row)}
        return any(row["scenario"] in probed for row in manifest["selection"]["cases"] if row["model"] == model.id)


def window_plan(run: Run) -> WindowPlan:
    """Return the plan of the windows: how much text is scored, and how."""
    counts = window_counts(run)
    return WindowPlan(
        seq_len=counts.seq_len,
        preview=counts.preview,
        final=counts.final,
        seed=run.settings.window_seed,
        batch_size=run.settings.eval_batch,
        top_k=run.settings.top_k,
        slices=slice_counts(run),
    )
