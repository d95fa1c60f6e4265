"""Tuning a model of a suites folder: its snapshot, its suite's text, and the file that the entries go to."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from invarlock.catalog.edit_specs import EditName, parse_scope
from invarlock.catalog.models import Model, Text, read_models
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.checkpoints.families import count_blocks
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.errors import EditError, UsageError
from invarlock.evaluation.comparison import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.text import read_embedded_text
from invarlock.evaluation.tuning import Trial, TunedModel, tune
from invarlock.jsonio import check_schema, write_json
from invarlock.reports.margins import tightest

BATCH_SIZE = 16


def tune_suite_model(
    suites: Path,
    model_id: str,
    output: Path,
    *,
    edits: Sequence[EditName],
    scope: str,
    lowrank_scope: str | None,
    margin: float,
    draws: int,
    tier: str,
) -> int:
    """Tune the edits of a model, write their entries, tell how it went, and return 1 when one found nothing.

    Raises:
        UsageError: when the model is none of the folder, or not on disk.
        MissingFileError, DocumentError: when the folder or the output file is malformed.
    """
    model, text = _find(suites, model_id)
    document = _entries(output)
    plan = WindowPlan(text.seq_len, text.preview_windows, text.final_windows, 0, BATCH_SIZE)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="invarlock-tune-") as folder:
        snapshot = Path(folder) / "baseline"
        assert model.path is not None
        tokenizer = None if model.tokenizer_path is None else suites / model.tokenizer_path
        make_snapshot(suites / model.path, tokenizer, snapshot, model.revision)
        source = read_embedded_text(suites / text.source, text.sha256)
        tuned = TunedModel(model.id, snapshot, source, plan, Placement("cpu"), tier, "dev")
        middle = (count_blocks(read_checkpoint(snapshot).modules.values()) - 1) // 2
        for edit in edits:
            wanted = (lowrank_scope or f"ffn@layer={middle}") if edit == "lowrank_svd" else scope
            found = tune(tuned, edit, parse_scope(wanted, where="--scope"), margin=margin, draws=draws, tell=_tell)
            try:
                entry = found.entry()
            except EditError as error:
                missed += 1
                print(f"nothing selected: {error}")
                continue
            print(f"selected: {found.chosen.spec if found.chosen else None}")
            document["models"].setdefault(model.id, {})[edit] = entry
            document["_meta"]["generated_at"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            check_schema(document, "tuned_edit_params", where=str(output))
            write_json(output, document)
    return 1 if missed else 0


def _find(suites: Path, model_id: str) -> tuple[Model, Text]:
    models = read_models(suites / "models.toml")
    model = models.models.get(model_id)
    if model is None:
        raise UsageError(f"{model_id!r} is no model of {suites / 'models.toml'}; known: {', '.join(models.models)}")
    if model.path is None:
        raise UsageError(f"{model_id}: it comes from the hub, which this version cannot fetch from")
    for suite in models.suites.values():
        if model_id in suite.models and suite.text is not None:
            return model, suite.text
    raise UsageError(f"{model_id}: no suite that names a text has it")


def _entries(output: Path) -> dict[str, Any]:
    if output.exists():
        document: dict[str, Any] = dict(read_tuned_params(output).document)
        return document
    return {"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}


def _tell(trial: Trial) -> None:
    ratio = "no ratio" if trial.ratio is None else f"ratio {trial.ratio:.4g}, upper end {trial.upper or 0.0:.4g}"
    name, share = tightest(trial.used)
    most = "" if share is None else f", {share:.0%} of {name}"
    print(f"  {trial.spec}: {ratio}{most}: {trial.against[0] if trial.against else 'holds'}")
    sys.stdout.flush()
