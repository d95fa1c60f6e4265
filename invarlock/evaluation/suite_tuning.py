"""Tuning a model of a suites folder: its snapshot, its suite's texts, and the file that the entries go to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from invarlock.catalog.edit_specs import Scope, parse_scope
from invarlock.catalog.estimates import FIXED_SECONDS, Workload, estimate_line, process_bytes
from invarlock.checkpoints.families import count_blocks
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.edits import BY_NAME
from invarlock.errors import EditError
from invarlock.evaluation.ladders import ladder
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.tuned_model import GivenTexts, find_tuned, hub_folder, read_entries, read_tuned_texts
from invarlock.evaluation.tuning import Trial, TunedModel, tune
from invarlock.jsonio import check_schema, write_json
from invarlock.machine_speed import measure_speed
from invarlock.moments import utc_now
from invarlock.output import ShowLine
from invarlock.reports.margins import tightest
from invarlock.reports.policy import slice_overrides

BATCH_SIZE = 16


def tune_suite_model(  # noqa: PLR0913  # the options of one command
    suites: Path,
    name: str,
    output: Path,
    *,
    edits: Sequence[str],
    scope: str,
    lowrank_scope: str | None,
    margin: float,
    draws: int,
    tier: str,
    model_id: str | None = None,
    given: GivenTexts,
    show: ShowLine,
) -> int:
    """Tune the edits of a model, write their entries, show the results, and return 1 if an edit has no passing
    parameters.

    The model is one of the suites folder, or a folder with a checkpoint. The entries of a folder get ``model_id``, or
    the id that a suite gives the folder in a slot (``MODEL_1=FOLDER``). The model is judged on every slice of the suite
    whose text ships with it, or on the given texts; each limit must keep its reserve in each slice.

    Raises:
        UsageError: when the model is neither in the suites folder nor a folder.
        HubError: when the model is on the hub and not in the client's cache.
        MissingFileError, DocumentError: when the folder or the output file is malformed.
    """
    document = read_entries(output)
    model, suite_texts = find_tuned(suites, name, model_id)
    texts = read_tuned_texts(suites, suite_texts, given)
    first = next(iter(texts.counts.values()))
    slices = dict(texts.counts) if texts.source.slices else {}
    plan = WindowPlan(first.seq_len, first.preview, first.final, 0, BATCH_SIZE, slices=slices)
    if slices:
        show(f"judged on the slices {', '.join(slices)}: every limit must hold with its margin in each")
    if texts.left_out:
        show(
            f"warning: not judged on {', '.join(texts.left_out)} of the suite, which the suites folder does not have; "
            "give all texts with --text NAME=FILE"
        )
    missed = 0
    with tempfile.TemporaryDirectory(prefix="invarlock-tune-") as folder:
        snapshot = Path(folder) / "baseline"
        source_folder = hub_folder(model) if model.path is None else suites / model.path
        tokenizer = None if model.tokenizer_path is None else suites / model.tokenizer_path
        make_snapshot(source_folder, tokenizer, snapshot, model.revision if model.path is not None else None)
        overrides = slice_overrides(texts.limits, tier)
        tuned = TunedModel(model.id, snapshot, texts.source, plan, Placement("cpu"), tier, "dev", overrides)
        middle = (count_blocks(read_checkpoint(snapshot).modules.values()) - 1) // 2
        scopes = {
            edit: (lowrank_scope or f"ffn@layer={middle}") if BY_NAME[edit].tunes_one_block else scope for edit in edits
        }
        wanted = {edit: parse_scope(text, where="--scope") for edit, text in scopes.items()}
        show(_estimate(snapshot, plan, wanted, draws))
        for found in tune(tuned, wanted, margin=margin, draws=draws, show=lambda trial: show(_trial_line(trial))):
            try:
                entry = found.entry()
            except EditError as error:
                missed += 1
                show(f"nothing selected: {error}")
                continue
            show(f"selected: {found.chosen.spec if found.chosen else None}")
            document["models"].setdefault(model.id, {})[found.edit] = entry
            document["_meta"]["generated_at"] = utc_now()
            check_schema(document, "tuned_edit_params", where=str(output))
            # resolved so that a symbolic link stays a link
            write_json(output.resolve(), document)
    if missed < len(edits):
        show(f"written: {output}")
    return 1 if missed else 0


def _estimate(snapshot: Path, plan: WindowPlan, wanted: Mapping[str, Scope], draws: int) -> str:
    """Return the most time, memory and disk space that tuning takes, if it tries each candidate, as one line."""
    files, speed = read_checkpoint(snapshot), measure_speed(snapshot)
    stored = sum(entry.size_bytes for entry in files.entries.values())
    counts = list(plan.slices.values()) or [plan.counts("")]
    windows, longest = sum(one.preview + one.final for one in counts), max(one.seq_len for one in counts)
    workload = Workload(files.total_parameters, draws * windows, longest, stored)
    trials = sum(len(ladder(snapshot, edit, scope)) for edit, scope in wanted.items())
    subject = FIXED_SECONDS * draws + workload.subject_seconds(speed) + workload.edit_seconds(speed)
    seconds = FIXED_SECONDS + workload.baseline_seconds(speed) + trials * subject
    memory = process_bytes(files.total_parameters, plan.batch_size * longest, longest)
    line = estimate_line(seconds, memory, (1 + len(wanted)) * stored, speed)
    return f"{line}; at most {trials} trials"


def _trial_line(trial: Trial) -> str:
    ratio = "no ratio" if trial.ratio is None else f"ratio {trial.ratio:.4g}, upper end {trial.upper or 0.0:.4g}"
    name, share = tightest(trial.used) if trial.used else ("", None)
    part = "" if trial.deciding_slice is None else f" in slice {trial.deciding_slice}"
    most = "" if share is None else f", {share:.0%} of {name}{part}"
    return f"  {trial.spec}: {ratio}{most}: {trial.against[0] if trial.against else 'holds'}"
