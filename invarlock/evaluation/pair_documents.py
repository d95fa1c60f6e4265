"""Checks the preset, baseline report and task records given to ``invarlock evaluate``, before PyTorch is imported.

The digest of the checkpoint's weights is compared later, because computing it takes minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invarlock.checkpoints.digests import tokenizer_digest
from invarlock.checkpoints.folder_names import checkpoint_name
from invarlock.documents.reports import BaselineReport, TaskRecordsDocument
from invarlock.errors import EvaluationError, UsageError
from invarlock.evaluation.pair_request import PairRequest
from invarlock.jsonio import read_json
from invarlock.problems import Code
from invarlock.reports.kinds import check_report
from invarlock.reports.preset_files import read_preset
from invarlock.reports.presets import check_fit
from invarlock.reports.verification import verify_baseline
from invarlock.task_records.importing import find_task_records, read_records


def check_documents(request: PairRequest) -> None:
    """Refuse a preset or a baseline's report that is malformed or has another model, tier, tokenizer or setup.

    Malformed task records are refused too.

    Raises:
        MissingFileError: when a file does not exist.
        DocumentError: when a file is malformed.
        UsageError: when the preset does not fit the request.
        EvaluationError: when the baseline's report does not fit the request.
    """
    preset = None if request.preset is None else read_preset(request.preset).document
    name = model_name(request, preset)
    if preset is not None:
        # everything but the digest of the weights is compared here
        baseline = {**preset["baseline"], "tokenizer_sha256": tokenizer_digest(request.baseline)}
        check_fit(preset, baseline, request.tier, attention=request.attention, where=str(request.preset))
    given_records(request)
    if request.baseline_report is not None:
        _check_report(request, request.baseline_report, name)


def model_name(request: PairRequest, preset: Mapping[str, Any] | None) -> str:
    """Return the name of the model: from the preset, the user, or the baseline's own.

    Raises:
        UsageError: when the names of preset and user differ.
    """
    if preset is None:
        return request.model_id or checkpoint_name(request.baseline)
    if request.model_id not in (None, preset["model_id"]):
        raise UsageError(
            f"--model-id: {request.model_id!r}, and the preset is of {preset['model_id']!r}; leave --model-id out",
            code=Code.OPTIONS_CONFLICT,
        )
    return str(preset["model_id"])


def given_records(request: PairRequest) -> TaskRecordsDocument | None:
    """Return the task results that are named in the request or found in the subject's folder, or None.

    Raises:
        MissingFileError: when a named file does not exist.
        DocumentError: if a file is malformed.
    """
    if request.records is not None:
        return read_records(request.records)
    return None if request.subject is None else find_task_records(request.subject)


def read_baseline_report(path: Path) -> BaselineReport:
    """Return a baseline's own report, checked against its schema.

    Raises:
        MissingFileError: if it does not exist.
        DocumentError: if it is malformed.
    """
    document: BaselineReport = read_json(path)
    check_report(document, "baseline_report", where=str(path))
    return document


def another_setup(path: Path, what: str) -> EvaluationError:
    """Return the error for a baseline's report that cannot be used here."""
    return EvaluationError(
        f"of another setup, {what} differs; leave --baseline-report out",
        code=Code.BASELINE_IMPLAUSIBLE,
        where=str(path),
    )


def _check_report(request: PairRequest, path: Path, name: str) -> None:
    document = read_baseline_report(path)
    problem = next(iter(verify_baseline(document)), None)
    if problem is not None:
        raise EvaluationError(
            f"{problem}; leave --baseline-report out", code=Code.BASELINE_IMPLAUSIBLE, where=str(path)
        )
    meta, dataset, context = document["meta"], document["dataset"], document["context"]
    pairs = {
        "meta.model_id": (meta["model_id"], name),
        "meta.attention": (meta["attention"], request.attention),
        "context.tier": (context["tier"], request.tier),
        "context.profile": (context["profile"], request.profile),
        "dataset.seq_len": (dataset["seq_len"], request.seq_len),
        "dataset.tokenizer_sha256": (dataset["tokenizer_sha256"], tokenizer_digest(request.baseline)),
    }
    measured = dataset["windows"]["preview"], dataset["windows"]["final"]
    wanted = tuple(len(request.texts) * count for count in request.window_counts)
    if measured != wanted:
        raise EvaluationError(
            f"measured with {measured[0]} + {measured[1]} windows, here {wanted[0]} + {wanted[1]}; use the same "
            "numbers, or leave --baseline-report out",
            code=Code.BASELINE_IMPLAUSIBLE,
            where=str(path),
        )
    wrong = [what for what, (found, wanted) in pairs.items() if found != wanted]
    if wrong:
        raise another_setup(path, wrong[0])
