"""Calibration in a worker: workers divide the null runs, and the preset derived from them is used to judge every case.

Each null run has a lock. A free worker claims a null run that no worker has begun, and waits only if other workers are
measuring all that are left. The first worker that finds all null runs finished derives the preset.
"""

from __future__ import annotations

import logging
from pathlib import Path

from invarlock.catalog.models import Model
from invarlock.errors import InvarLockError, OutOfMemoryError
from invarlock.evaluation.comparison import measure_baseline_weights
from invarlock.evaluation.measurements import KnownBaseline
from invarlock.evaluation.models import Placement
from invarlock.evaluation.null_runs import measure_null_run, null_draws
from invarlock.evaluation.request import StoredBaseline, weight_facts
from invarlock.evaluation.windows import Draw
from invarlock.harness.baselines.baseline_reports import Baselines
from invarlock.harness.baselines.preset_cache import PresetCache
from invarlock.harness.baselines.resuming import kept_null_run
from invarlock.harness.planning.plan import REUSED, PlannedNullRun
from invarlock.harness.planning.presets import calibrates, derived_preset, has_presets, preset_path
from invarlock.harness.state.locks import Locks
from invarlock.harness.state.run import Run
from invarlock.jsonio import read_json, write_json
from invarlock.reports.documents import NullRunDocument
from invarlock.reports.preset_files import null_run_name, read_preset
from invarlock.reports.presets import Preset, check_fit
from invarlock.stages import stage

_log = logging.getLogger(__name__)


class Calibration:
    """One worker's cache of the presets of its run."""

    def __init__(self, run: Run, baselines: Baselines, locks: Locks) -> None:
        self.run = run
        self.baselines = baselines
        self._locks = locks
        self._presets: dict[str, Preset | None] = {}
        self._failed: dict[str, InvarLockError] = {}
        self._known_baselines: dict[str, KnownBaseline] = {}
        self._draws: dict[str, dict[int, Draw]] = {}
        self._looked_at: set[PlannedNullRun] = set()
        self._reused = 0
        folder = run.settings.preset_cache
        self._cache = None if folder is None else PresetCache(Path(folder))

    def preset(self, model: Model, baseline: StoredBaseline, placement: Placement) -> Preset | None:
        """Return the preset of a model, which the workers derive together; None in a run without presets.

        Raises:
            InvarLockError: if the preset belongs to another model, or cannot be derived from the null runs.
        """
        if model.id in self._failed:
            # a calibration that failed is not tried again for every case
            raise self._failed[model.id]
        if model.id not in self._presets:
            try:
                self._presets[model.id] = self._shared(model, baseline, placement)
            except OutOfMemoryError:
                raise
            except InvarLockError as error:
                self._failed[model.id] = error
                raise
        return self._presets[model.id]

    def measure(self, null_run: PlannedNullRun, placement: Placement) -> NullRunDocument:
        """Return the document of a null run; if it does not exist, this worker measures it or waits for another one.

        Raises:
            InvarLockError: when the null run cannot be measured.
        """
        self.baselines.snapshot(null_run.model)
        with self._locks.acquire(_lock_name(null_run)):
            self._measure(null_run, placement)
        document: NullRunDocument = read_json(self._path(null_run))
        return document

    def take_reused(self) -> dict[str, str]:
        """Return how many null runs this worker took from the preset cache since the last call; empty for none."""
        reused, self._reused = self._reused, 0
        return {REUSED: str(reused)} if reused else {}

    def _shared(self, model: Model, baseline: StoredBaseline, placement: Placement) -> Preset | None:
        if not has_presets(self.run):
            return None
        if calibrates(self.run):
            document = baseline.document
            facts = weight_facts(document)
            self._known_baselines[model.id] = KnownBaseline(**document["baseline"], facts=facts)
            self._measure_all(model, placement)
            with self._locks.acquire(f"preset_{model.folder}"):
                preset = derived_preset(self.run, model)
        else:
            preset = read_preset(preset_path(self.run, model))
        where = preset_path(self.run, model).name
        check_fit(
            preset.document,
            baseline.document["baseline"],
            self.run.settings.tier,
            attention=placement.attention,
            where=where,
        )
        return preset

    def _measure_all(self, model: Model, placement: Placement) -> None:
        left = [PlannedNullRun(model, number) for number in range(1, self.run.settings.calibration_runs + 1)]
        while left:
            try_acquire = [null_run for null_run in left if self._claim(null_run, placement)]
            left = [null_run for null_run in left if null_run not in try_acquire]
            if left and not try_acquire:
                # other workers are measuring all that are left; if one dies, this worker claims its null run
                with self._locks.acquire(_lock_name(left[0])):
                    self._measure(left.pop(0), placement)

    def _claim(self, null_run: PlannedNullRun, placement: Placement) -> bool:
        """Measure a null run unless another worker is measuring it; return whether the null run is finished."""
        with self._locks.try_acquire(_lock_name(null_run)) as ours:
            if ours:
                self._measure(null_run, placement)
        return ours

    def _measure(self, null_run: PlannedNullRun, placement: Placement) -> None:
        """Measure a null run unless its document exists and matches this run's inputs; the caller has its lock."""
        run, model, path = self.run, null_run.model, self._path(null_run)
        setup = self.baselines.setup(model)
        if run.settings.resume and null_run not in self._looked_at:
            kept_null_run(path, setup, null_run.run, self._known_baseline(model))
            self._looked_at.add(null_run)
        if path.is_file():
            return
        cache, known = self._cache, self._known_baseline(model)
        if cache is not None and cache.fetch(path, setup, null_run.run, known):
            _log.info("null run %d of %s: from the preset cache", null_run.run, model.id)
            self._reused += 1
            return
        if model.id not in self._draws:
            numbers = range(1, run.settings.calibration_runs + 1)
            self._draws[model.id] = null_draws(run.directory.baseline_snapshot(model), setup, numbers)
        with stage(f"null run {null_run.run}/{run.settings.calibration_runs}"):
            document = measure_null_run(
                run.directory.baseline_snapshot(model),
                setup,
                null_run.run,
                self._draws[model.id][null_run.run],
                run.directory.path / model.folder / "models" / f"null_run_{null_run.run}",
                known,
            )
        write_json(path, document)
        if cache is not None:
            cache.add(path, setup, null_run.run, known)

    def _known_baseline(self, model: Model) -> KnownBaseline:
        if model.id not in self._known_baselines:
            self._known_baselines[model.id] = measure_baseline_weights(self.run.directory.baseline_snapshot(model))
        return self._known_baselines[model.id]

    def _path(self, null_run: PlannedNullRun) -> Path:
        return self.run.directory.presets / null_run_name(null_run.model.folder, null_run.run)


def _lock_name(null_run: PlannedNullRun) -> str:
    return f"null_run_{null_run.model.folder}_{null_run.run}"
