"""The presets of a run: those that it derives, and those that it is given.

Nothing here measures, and nothing here imports torch.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from invarlock.catalog.models import Model, WindowCounts
from invarlock.errors import InvarLockError
from invarlock.harness.planning.plan import RUN_ONLY
from invarlock.harness.sources.texts import slice_counts, window_counts
from invarlock.harness.state.run import Run
from invarlock.jsonio import read_file, write_bytes
from invarlock.problems import Code, Problem
from invarlock.reports.preset_files import null_run_name, preset_name, read_null_runs, read_preset, write_preset
from invarlock.reports.presets import Preset, check_fit, derive_preset, loosened


def calibrates(run: Run) -> bool:
    """Return whether a run derives its own presets."""
    return bool(run.settings.calibration_runs) and not _are_given(run) and run.settings.suite_mode != RUN_ONLY


def has_presets(run: Run) -> bool:
    """Return whether a run uses presets."""
    return calibrates(run) or _are_given(run) or run.settings.suite_mode == RUN_ONLY


def preset_path(run: Run, model: Model) -> Path:
    """Return the path of a model's preset in the run directory."""
    return run.directory.presets / preset_name(model.folder)


def preset_check(run: Run, models: Sequence[Model]) -> Iterator[Problem]:
    """Yield the reasons why presets that a run is given, or resumes with, cannot be used."""
    if not _are_given(run) and run.settings.suite_mode != RUN_ONLY:
        return
    if not _are_given(run) and not run.settings.resume:
        yield _unusable(
            "--suite-mode run-only: there are no presets; give them with PACK_CALIBRATION_PRESET_DIR or "
            "PACK_CALIBRATION_PRESET_FILE, or continue a run that made them: --resume"
        )
        return
    for model in models:
        path = _source(run, model)
        try:
            preset = read_preset(path)
            if preset.document["model_id"] != model.id:
                other = preset.document["model_id"]
                yield _unusable(f"{path}: a preset for {other}, but the run has {model.id}; drop it with -k")
                continue
            yield from _other_windows(run, preset.document["dataset"], path)
            # the pin of a model given by path is its checkpoint's digest; for other models the digest is known later
            known = preset.document["baseline"]
            digest = known["digest"] if model.path is None or model.revision is None else model.revision
            check_fit(
                preset.document,
                {**known, "digest": digest},
                run.settings.tier,
                attention=run.attention(run.catalog.models.suites[run.catalog.suite].requires),
                where=str(path),
            )
        except InvarLockError as error:
            yield from error.listed


def _unusable(message: str) -> Problem:
    return Problem(Code.PRESET_UNUSABLE, "", "", message)


def _other_windows(run: Run, dataset: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """Yield a problem if a preset was derived from other window counts than the run's, since limits depend on them."""
    slices = {row["name"]: _counts(row) for row in dataset.get("slices", ())}
    wanted = slice_counts(run)
    if list(slices.items()) != list(wanted.items()):
        yield _unusable(
            f"{path}: learned from {_slices_text(slices)}, but the run scores {_slices_text(wanted)}; calibrate on the "
            "texts of this run"
        )
        return
    learned, scored = _counts(dataset), window_counts(run)
    if not slices and learned != scored:
        yield _unusable(
            f"{path}: learned from {_windows_text(learned)}, but the run scores {_windows_text(scored)}; calibrate at "
            f"these, or use the preset's: INVARLOCK_SEQ_LEN={learned.seq_len} "
            f"INVARLOCK_PREVIEW_WINDOWS={learned.preview} INVARLOCK_FINAL_WINDOWS={learned.final}"
        )


def _counts(row: Mapping[str, Any]) -> WindowCounts:
    return WindowCounts(row["seq_len"], row["windows"]["preview"], row["windows"]["final"])


def _slices_text(slices: Mapping[str, WindowCounts]) -> str:
    return ", ".join(f"{name} ({_windows_text(counts)})" for name, counts in slices.items()) or "one text"


def _windows_text(counts: WindowCounts) -> str:
    return f"{counts.preview} + {counts.final} windows of {counts.seq_len} tokens"


def begin_presets(run: Run, models: Sequence[Model]) -> None:
    """Copy given presets with their null runs into the run directory, and set unwanted existing ones aside."""
    for model in models:
        folder = run.directory.presets / model.folder
        if _are_given(run):
            source = _source(run, model)
            if source == preset_path(run, model):
                continue
            preset = read_preset(source)
            shutil.rmtree(folder, ignore_errors=True)
            for row in (*preset.document["null_runs"], preset.document["held_out"]):
                name = null_run_name(model.folder, row["run"])
                write_bytes(run.directory.presets / name, read_file(source.parent / name))
            write_preset(run.directory.presets, preset.document)
        elif calibrates(run):
            for path in folder.glob("null_run_*.json"):
                number = re.fullmatch(r"null_run_([0-9]{1,4})\.json", path.name)
                if number is not None and int(number[1]) > run.settings.calibration_runs:
                    path.replace(path.with_name(f"{path.name}.stale"))


def derived_preset(run: Run, model: Model) -> Preset:
    """Return the preset derived from a model's null runs, and write it unless it exists.

    Raises:
        InvarLockError: if no preset can be derived from the null runs.
    """
    path, tier = preset_path(run, model), run.settings.tier
    if path.is_file():
        try:
            preset = read_preset(path)
        except InvarLockError:
            preset = None
        if preset is not None and preset.document["tier"] == tier:
            return preset
        path.replace(path.with_name(f"{path.name}.stale"))
    return write_preset(run.directory.presets, derive_preset(read_null_runs(run.directory.presets, model.folder), tier))


def preset_lines(preset: Preset, where: str) -> Iterator[str]:
    """Yield a summary of a preset: its location, what it allows beyond its tier, and the result of its held-out run."""
    document = preset.document
    count = len(document["null_runs"])
    learned = f"{count} null run{'' if count == 1 else 's'} and one held out"
    yield f"{document['model_id']}: {where} ({learned}, tier {document['tier']})"
    yield from (f"  allows more than the tier: {line}" for line in loosened(document))
    for name, signals in document["held_out"]["signals"].items():
        if signals:
            yield f"  held-out null run: {name} raises {', '.join(signals)}, a false alarm; use more null runs"


def _are_given(run: Run) -> bool:
    return bool(run.settings.calibration_preset_dir or run.settings.calibration_preset_file)


def _source(run: Run, model: Model) -> Path:
    """Return the file from which a model's preset is copied."""
    if run.settings.calibration_preset_file:
        return Path(run.settings.calibration_preset_file)
    if run.settings.calibration_preset_dir:
        return Path(run.settings.calibration_preset_dir) / preset_name(model.folder)
    return preset_path(run, model)
