"""Evaluates two checkpoints on disk: a baseline and a user's subject.

Example::

    request = PairRequest(baseline=Path("base"), subject=Path("quantised"), text=Path("held-out.txt"))
    report = evaluate_pair(request, Path("out"))     # out/evaluation.report.json and its sidecars
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch

from invarlock.catalog.edit_labels import CUSTOM
from invarlock.checkpoints.digests import digest_checkpoint, tokenizer_digest
from invarlock.checkpoints.folder_names import checkpoint_name
from invarlock.checkpoints.layout import tokenizer_files
from invarlock.checkpoints.model_signatures import signatures_of
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.checkpoints.subject_edits import read_subject_edit
from invarlock.digests import digest_bytes, sha256_hex
from invarlock.documents.reports import BaselineReport, Report
from invarlock.errors import UsageError
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
from invarlock.evaluation.documents import (
    baseline_document,
    contracts_of,
    measurement_contracts,
    report_document,
    served_document,
)
from invarlock.evaluation.kept_tokens import check_kept, kept_file
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.pair_documents import (
    another_setup,
    check_documents,
    given_records,
    model_name,
    read_baseline_report,
)
from invarlock.evaluation.pair_request import PairRequest, check_request
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, StoredBaseline
from invarlock.evaluation.served.client import KEY_VARIABLE, Client, server_url
from invarlock.evaluation.served.server import TEXT, find_server
from invarlock.evaluation.served.subject import compare_served
from invarlock.evaluation.text import SourceText, sliced_text
from invarlock.evaluation.text_files import read_local_text
from invarlock.evaluation.threads import limit_threads
from invarlock.evaluation.tokenization import load_tokenizer
from invarlock.evaluation.unfinished import keep_baseline
from invarlock.evaluation.user_subjects import (
    changed_parameters,
    changed_tensors,
    link_user_subject,
    unchanged,
    user_subject_edit,
)
from invarlock.evaluation.windows import Draw
from invarlock.jsonio import dump_json, write_bytes
from invarlock.judgement.expectations import parse_expectations
from invarlock.moments import utc_now
from invarlock.problems import Code
from invarlock.reports.policy import overrides_of, slice_overrides
from invarlock.reports.preset_files import read_preset
from invarlock.reports.presets import Preset, check_fit
from invarlock.reports.rendering import render_report
from invarlock.reports.sidecars import PAGE_NAME, REPORT_NAME, RuntimeImage, edit_metadata, runtime_manifest
from invarlock.stages import stage
from invarlock.staging import staging_folder

SCENARIO = "evaluate"
RUN = 1
BASELINE_REPORT = f"baseline/{REPORT_NAME}"
# A user's subject is described by its own edit_metadata.json, if it has one.
USER_SUBJECT: Mapping[str, Any] = {"artifact_class": "validation_subject_checkpoint"}


def evaluate_pair(request: PairRequest, target: Path) -> Report:
    """Measure both checkpoints and write the report and its files into a new folder, completely or not at all.

    Raises:
        UsageError, MissingFileError: as ``check_request``, or when a setting is unknown or the preset does not fit.
        CheckpointError: when a folder is not a complete checkpoint.
        EvaluationError: when a model cannot be loaded or scored, or the baseline's report has another setup.
    """
    check_request(request, target)
    check_documents(request)
    limit_threads()
    with TemporaryDirectory(prefix="invarlock-") as scratch:
        # a subject without a tokenizer gets the baseline's, as in a suite
        subject = request.subject
        if subject is not None and not tokenizer_files(subject):
            subject = Path(scratch) / "subject"
            link_user_subject(request.folders[1], request.baseline, subject)
        signatures = _signatures(request)
        with ExitStack() as stack:
            with _writing(target):
                staging = stack.enter_context(staging_folder(target))
            # pushed here so that it runs before the staging folder is removed
            stack.push(lambda kind, *_: keep_baseline(kind, (staging / BASELINE_REPORT).parent, target))
            if subject is None:
                report, files = _evaluate_served(request, staging, signatures)
            else:
                report, files = _evaluate(request, subject, staging, signatures)
            with _writing(target):
                for name, content in files.items():
                    write_bytes(staging / name, content)
                if target.exists():
                    raise UsageError(
                        "already exists; choose another folder with --output-dir",
                        code=Code.OUTPUT_EXISTS,
                        where=str(target),
                    )
                staging.rename(target)
        return report


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn a failed file operation into an error that says which folder cannot be written, and why.

    Raises:
        UsageError: names the folder.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot be written ({error.strerror})", code=Code.OUTPUT_UNWRITABLE, where=str(target)
        ) from None


def _signatures(request: PairRequest) -> dict[str, dict[str, str]]:
    """Verify and return the required model signatures of the checkpoints, by side.

    Raises:
        CheckpointError: when a signature is missing or invalid.
    """
    if not request.model_signatures:
        return {}
    with stage("model signatures"):
        return signatures_of(request.baseline, request.folders[-1], request.model_signatures)


def _evaluate(
    request: PairRequest, subject: Path, staging: Path, signatures: Mapping[str, Mapping[str, str]]
) -> tuple[Report, dict[str, bytes]]:
    """Return the report, and the files to add to those that measuring wrote into the staging folder."""
    preset = None if request.preset is None else read_preset(request.preset)
    with stage("digests and text"):
        setup = _setup(request, preset)
    with stage("drawing windows"):
        draw = draw_runs(request.baseline, setup.text, setup.plan, [RUN])[RUN]
    kept = (staging / BASELINE_REPORT).parent
    with stage(f"baseline {request.baseline.name}"):
        document = _baseline(request, setup, draw, kept)
    edited, metadata = _edited(request, request.folders[1], document)
    data = dump_json(document)
    baseline = StoredBaseline(request.baseline, document, digest_bytes(data), kept)
    evaluation = EvaluationRequest(setup, baseline, SCENARIO, RUN, draw, setup.placement)
    declared = parse_expectations(request.expect)
    with stage(f"subject {request.folders[1].name}"):
        measured = compare(subject, replace(evaluation.comparison(), expected=declared))
    edited = unchanged(edited, measured.digest, document["baseline"]["digest"])
    edited = replace(edited, expected=tuple(map(str, declared)), subject=checkpoint_name(request.folders[1]))
    metadata |= {"edit_type": edited.name, "label": edited.label, "label_source": edited.label_source}
    report = report_document(evaluation, edited, measured, task_records=given_records(request), signatures=signatures)
    return report, _files(report, data, request.image, {**metadata, "subject_digest": measured.digest})


def _evaluate_served(
    request: PairRequest, staging: Path, signatures: Mapping[str, Mapping[str, str]]
) -> tuple[Report, dict[str, bytes]]:
    """Do the same for a served subject, which has no files; one request is sent before measuring begins."""
    with stage("digests and text"):
        setup = _setup(request, None if request.preset is None else read_preset(request.preset))
    with stage("drawing windows"):
        draw = draw_runs(request.baseline, setup.text, setup.plan, [RUN])[RUN]
    client = Client(server_url(str(request.subject_url)), os.environ.get(KEY_VARIABLE) or None)
    served = find_server(
        client,
        request.subject_model,
        load_tokenizer(request.baseline),
        draw.final.tokens.tolist(),
        len(draw.prefix),
        request.top_k,
    )
    if served.dialect.prompt == TEXT:
        draw = draw_runs(request.baseline, setup.text, setup.plan, [RUN], served.takes)[RUN]
    kept = (staging / BASELINE_REPORT).parent
    with stage(f"baseline {request.baseline.name}"):
        document = _baseline(request, setup, draw, kept)
    data = dump_json(document)
    baseline = StoredBaseline(request.baseline, document, digest_bytes(data), kept)
    evaluation = EvaluationRequest(setup, baseline, SCENARIO, RUN, draw, setup.placement)
    # the log is stored beside the report, which must not contain the server's address
    with stage(f"served subject {served.document(1)['model']}"):
        measured = compare_served(served, evaluation.comparison())
    label = request.edit_label or CUSTOM
    edited = EditDescription(CUSTOM, label, CUSTOM, {}, None if request.edit_label is None else "given")
    report = served_document(evaluation, edited, measured, given_records(request), signatures)
    return report, _files(report, data, request.image, None)


def _setup(request: PairRequest, preset: Preset | None) -> Setup:
    preview, final = request.window_counts
    plan = WindowPlan(
        seq_len=request.seq_len,
        preview=preview,
        final=final,
        seed=request.seed,
        batch_size=request.batch_size,
        top_k=request.top_k,
    )
    context = {
        "suite": SCENARIO,
        "profile": request.profile,
        "tier": request.tier,
        "determinism": "throughput",
        "execution_mode": "host-bypass" if request.image is None else "container",
    }
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    digest = digest_checkpoint(request.baseline)
    name = model_name(request, None if preset is None else preset.document)
    if preset is not None:
        baseline = {"digest": digest, "tokenizer_sha256": tokenizer_digest(request.baseline)}
        check_fit(preset.document, baseline, request.tier, attention=request.attention, where=str(request.preset))
    return Setup(
        name,
        digest,
        context,
        Placement(device, attention=request.attention, scoring=request.scoring),
        plan,
        _text(request),
        overrides={**overrides_of(request.intent), **slice_overrides(request.slice_limits, request.tier)},
        preset=preset,
        reuses_baseline=request.baseline_report is not None,
    )


def _text(request: PairRequest) -> SourceText:
    """Return the text; several slices are returned as one source.

    Raises:
        MissingFileError: when a file does not exist.
        EvaluationError: when a file is not a text.
    """
    if isinstance(request.text, Path):
        return read_local_text(request.text, request.text_field)
    return sliced_text({name: read_local_text(path, request.text_field) for name, path in request.text.items()})


def _baseline(request: PairRequest, setup: Setup, draw: Draw, kept: Path) -> BaselineReport:
    """Return the baseline's report: measured now, or the given report if its baseline and setup are the same.

    The folder ``kept`` then has the file of the baseline's most probable tokens.
    """
    if request.baseline_report is None:
        measured = measure_baseline(request.baseline, {RUN: draw}, setup.plan, setup.placement, probe=False, kept=kept)
        document = baseline_document(setup, measured)
        # lets an interrupted evaluation continue from here
        write_bytes(kept / REPORT_NAME, dump_json(document))
        return document
    path = request.baseline_report
    document = read_baseline_report(path)
    tokenizer = tokenizer_digest(request.baseline)
    draws = [row for row in document["draws"] if row["run"] == RUN]
    pairs = [
        ("baseline.digest", document["baseline"]["digest"], setup.revision),
        ("meta.model_id", document["meta"]["model_id"], setup.model_id),
        ("meta.device", document["meta"]["device"], setup.placement.device),
        ("meta.attention", document["meta"]["attention"], setup.placement.attention),
        ("dataset", document["dataset"], setup.dataset(tokenizer, draw.prefix)),
        ("context", document["context"], setup.context),
        ("measurement contracts", contracts_of(document), measurement_contracts()),
        ("seeds", draws[0]["seeds"] if draws else None, setup.seeds(RUN)),
        ("windows", draws[0]["final"]["window_ids"] if draws else None, list(draw.final.ids)),
        ("fidelity.top_k", draws[0]["fidelity"]["top_k"] if draws else None, _top_k(draws, request.top_k)),
    ]
    wrong = [name for name, found, wanted in pairs if found != wanted]
    if wrong:
        raise another_setup(path, wrong[0])
    found = kept_file(path.parent, RUN)
    check_kept(found, draws[0]["fidelity"])
    kept.mkdir(parents=True)
    shutil.copyfile(found, kept_file(kept, RUN))
    return document


def _top_k(draws: Sequence[Mapping[str, Any]], top_k: int) -> int | None:
    """Return how many tokens the kept files have per position, at most the vocabulary; None without a draw."""
    return min(top_k, draws[0]["fidelity"]["vocabulary"]) if draws else None


def _edited(request: PairRequest, subject: Path, baseline: Mapping[str, Any]) -> tuple[EditDescription, dict[str, Any]]:
    """Return the description of the subject's edit, and the arguments of its ``edit_metadata.json``."""
    edited, scope = user_subject_edit(subject, request.baseline, read_subject_edit(subject, request.edit_label))
    before, after = open_checkpoint(request.baseline), open_checkpoint(subject, request.baseline)
    changed = changed_tensors(before, after)
    return edited, {
        "scope": scope,
        "parameters": edited.parameters,
        "edited_tensors": len(changed),
        "edited_params": changed_parameters(before, changed),
        "total_params": before.files.total_parameters,
        "baseline_digest": baseline["baseline"]["digest"],
    }


def _files(
    report: Mapping[str, Any], baseline: bytes, image: RuntimeImage | None, metadata: dict[str, Any] | None
) -> dict[str, bytes]:
    """Return the files of a report by name; a served subject has no edit metadata."""
    data = dump_json(report)
    written = utc_now()
    runtime = runtime_manifest(data, PurePosixPath(REPORT_NAME), report["context"], written, image=image)
    runtime["context"]["command"] = "evaluate"
    files = {
        REPORT_NAME: data,
        PAGE_NAME: render_report(report, sha256_hex(data)),
        BASELINE_REPORT: baseline,
        "runtime.manifest.json": dump_json(runtime),
        "evaluate_timing.json": dump_json(report["telemetry"]),
    }
    if metadata is not None:
        files["edit_metadata.json"] = dump_json(edit_metadata(scenario=USER_SUBJECT, **metadata))
    return files
