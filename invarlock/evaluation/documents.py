"""Builds the documents that leave a process from measurements: the baseline's own report, and the subject's report.

The cases of a suite and ``invarlock evaluate`` write the same documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from invarlock.documents.json_object import JsonObject
from invarlock.documents.reports import BaselineReport, Report
from invarlock.evaluation.activations import ACTIVATION_CONTRACTS
from invarlock.evaluation.canonical_form import CanonicalForm
from invarlock.evaluation.checkpoint_facts import WEIGHT_CONTRACTS
from invarlock.evaluation.comparison import window_columns
from invarlock.evaluation.measurements import Baseline, SubjectMeasurement
from invarlock.evaluation.models import NATIVE
from invarlock.evaluation.request import EditDescription, EvaluationRequest, Setup, draw_of
from invarlock.evaluation.scoring import Scores
from invarlock.evaluation.served.subject import ServedMeasurement
from invarlock.evaluation.windows import Windows
from invarlock.jsonio import check_schema
from invarlock.reports.consistency import SERVED
from invarlock.reports.derivation import SCHEMA_VERSION, baseline_run_id, compose
from invarlock.reports.probes import PROBED, compose_probe, file_name
from invarlock.reports.sidecars import BASELINE_REUSED, RENDER_DEFERRED


def baseline_document(setup: Setup, baseline: Baseline) -> BaselineReport:
    """Return a baseline's report. It has raw measurements and no times, so equal measurements give equal bytes.

    Raises:
        DocumentError: when it would not match its schema.
    """
    document: JsonObject = {
        "schema_version": SCHEMA_VERSION,
        "meta": setup.meta(),
        "context": dict(setup.context),
        "baseline": {"digest": baseline.digest, "tokenizer_sha256": baseline.tokenizer_sha256},
        "dataset": setup.dataset(baseline.tokenizer_sha256, baseline.prefix_token_ids),
        "draws": [
            {
                "run": run,
                "seeds": setup.seeds(run),
                **window_columns(scored.draw, scored.preview, scored.final, "logloss"),
                "fidelity": dict(scored.fidelity),
                **asdict(scored.activations),
                **({} if scored.probe is None else {"probe": asdict(scored.probe)}),
            }
            for run, scored in baseline.draws.items()
        ],
        **{guard: {"measurement_contract": contract} for guard, contract in measurement_contracts().items()},
    }
    for guard, raw in baseline.facts.by_guard.items():
        document[guard]["raw"] = raw
    document["run_id"] = baseline_run_id(document)
    check_schema(document, "baseline_report", where="baseline report")
    return cast("BaselineReport", document)


def measurement_contracts() -> dict[str, JsonObject]:
    """Return how this version measures each guard in a baseline's report."""
    return {guard: dict(contract) for guard, contract in {**WEIGHT_CONTRACTS, **ACTIVATION_CONTRACTS}.items()}


def contracts_of(baseline: BaselineReport) -> dict[str, JsonObject]:
    """Return how each guard in a baseline's report was measured; a subject must be measured in the same way."""
    document = cast("JsonObject", baseline)
    return {guard: document[guard]["measurement_contract"] for guard in measurement_contracts()}


def report_document(
    request: EvaluationRequest,
    edited: EditDescription,
    measured: SubjectMeasurement,
    make_seconds: float | None = None,
    task_records: Mapping[str, Any] | None = None,
    signatures: Mapping[str, Mapping[str, str]] | None = None,
) -> Report:
    """Return a subject's report: its raw measurements and all results that follow from them.

    Args:
        request: the evaluation.
        edited: the description of the subject's edit.
        measured: the measurements of the subject.
        make_seconds: how long it took to make the subject; None if it existed already.
        task_records: the results of both sides on tasks, or None.
        signatures: the model signatures that were verified, by side.

    Raises:
        DocumentError: when it would not match its schema.
    """
    setup, baseline = request.setup, request.baseline.document
    base = draw_of(baseline, request.run)
    weights = measured.facts.against({guard: cast("JsonObject", baseline)[guard]["raw"] for guard in WEIGHT_CONTRACTS})
    outputs = measured.activations.by_guard(_losses(measured.scaled))
    raws = {**weights, **{guard: {"baseline": base[guard], "subject": own} for guard, own in outputs.items()}}
    contracts = measurement_contracts()
    raw = {
        **_outputs(request, edited, (measured.preview, measured.final), measured.fidelity),
        "subject": {"digest": measured.digest, **({} if edited.subject is None else {"name": edited.subject})},
        "scoring": {
            "not_scored": measured.not_scored,
            "batch_size": None if measured.final is None else measured.final.batch_size,
            "scored_as": {"baseline": NATIVE, "subject": measured.scored_as},
            **({} if measured.overflow is None else {"float16_overflow": _overflow(*measured.overflow)}),
        },
        **{guard: {"raw": raws[guard], "measurement_contract": contracts[guard]} for guard in setup.guards},
        **equivalence(measured.form),
        "guards": list(setup.guards),
    }
    seconds = measured.seconds if make_seconds is None else {"make_subject": make_seconds, **measured.seconds}
    return _composed(request, _signed(raw, signatures), seconds, task_records)


def _overflow(module: str, largest: float) -> dict[str, Any]:
    return {"module": module, "largest": float(f"{largest:.9g}")}


def _signed(raw: Mapping[str, Any], signatures: Mapping[str, Mapping[str, str]] | None) -> dict[str, Any]:
    """Return the raw part of a report with the verified model signatures added."""
    blocks = {"baseline": "baseline_ref", "subject": "subject"}
    found = {blocks[side]: signature for side, signature in (signatures or {}).items()}
    return {**raw, **{name: {**raw[name], "model_signature": dict(one)} for name, one in found.items()}}


def served_document(
    request: EvaluationRequest,
    edited: EditDescription,
    measured: ServedMeasurement,
    task_records: Mapping[str, Any] | None = None,
    signatures: Mapping[str, Mapping[str, str]] | None = None,
) -> Report:
    """Return the report of a served subject. It has no digest, and no guard judges it.

    Raises:
        DocumentError: when it would not match its schema.
    """
    raw = {
        **_outputs(request, edited, (measured.preview, measured.final), measured.fidelity),
        "subject": {"digest": None, "served": measured.served},
        "scoring": {
            "not_scored": None,
            "batch_size": measured.final.batch_size,
            "scored_as": {"baseline": NATIVE, "subject": SERVED},
        },
        "guards": [],
    }
    return _composed(request, _signed(raw, signatures), measured.seconds, task_records)


def _outputs(
    request: EvaluationRequest,
    edited: EditDescription,
    scores: tuple[Scores | None, Scores | None],
    fidelity: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the raw part of a report on outputs: the comparison, its text, and the scores."""
    setup, baseline, run = request.setup, request.baseline.document, request.run
    own, base = window_columns(request.draw, *scores, "logloss"), draw_of(baseline, run)
    for part in ("preview", "final"):
        own[part]["baseline_logloss"] = base[part]["logloss"]
        if setup.store_tokens:
            windows: Windows = getattr(request.draw, part)
            own[part]["token_ids"] = [" ".join(map(str, row)) for row in windows.rows()]
    return {
        "schema_version": SCHEMA_VERSION,
        "meta": {**setup.meta(), "scenario": request.scenario, "run": run, "seeds": setup.seeds(run)},
        "context": dict(setup.context),
        "edit": edited.document(),
        "baseline_ref": {**baseline["baseline"], "report_sha256": request.baseline.report_sha256},
        "dataset": setup.dataset(baseline["baseline"]["tokenizer_sha256"], baseline["dataset"]["prefix_token_ids"]),
        "evaluation_windows": own,
        "fidelity": {"raw": {"baseline": base["fidelity"], "subject": fidelity}},
        "policy_provenance": setup.provenance(),
    }


def _composed(
    request: EvaluationRequest,
    raw: Mapping[str, Any],
    seconds: Mapping[str, float],
    task_records: Mapping[str, Any] | None,
) -> Report:
    """Return the report that follows from the raw measurements; it matches its schema."""
    setup = request.setup
    report = compose(
        {
            **raw,
            **({} if task_records is None else {"task_records": dict(task_records)}),
            "telemetry": {
                **telemetry(seconds),
                BASELINE_REUSED: int(setup.reuses_baseline),
                RENDER_DEFERRED: int(setup.defers_rendering),
            },
        }
    )
    check_schema(report, "evaluation_report", where="report")
    return report


def probe_document(
    probe: str, baseline: Mapping[str, Any], measured: SubjectMeasurement, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of a probe.

    Raises:
        DocumentError: when it would not match its schema.
    """
    guard, _ = PROBED[probe]
    subject = measured.probe.by_guard(_losses(measured.probe_scaled))[guard.name]
    contract = ACTIVATION_CONTRACTS[guard.name]
    base = draw_of(baseline, report["meta"]["run"])["probe"][guard.name]
    document = compose_probe(probe, {"baseline": base, "subject": subject}, contract, report)
    check_schema(document, probe, where=file_name(probe))
    return document


def equivalence(form: CanonicalForm | None) -> JsonObject:
    """Return a report's block on differences that do not change the function; empty if there are none."""
    found = {} if form is None else {"equivalence": form.removed, "equivalence_not_used": form.skipped}
    return {key: rows for key, rows in found.items() if rows}


def _losses(scores: Scores | None) -> list[float | None] | None:
    return None if scores is None else list(scores.losses)


def telemetry(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return seconds by stage, rounded as in documents."""
    return {f"{stage}_seconds": round(value, 6) for stage, value in seconds.items()}
