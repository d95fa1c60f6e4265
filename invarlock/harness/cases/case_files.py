"""Writing the files of a case: its report, the sidecars, and finally the manifest with the digests of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from invarlock.catalog.cases import Case
from invarlock.documents.reports import Report
from invarlock.evaluation.documents import probe_document, report_document
from invarlock.evaluation.measurements import SubjectMeasurement
from invarlock.evaluation.request import EditDescription, EvaluationRequest
from invarlock.evaluation.user_subjects import unchanged
from invarlock.harness.cases.subjects import MadeSubject, subject_records
from invarlock.jsonio import dump_json, write_bytes, write_json
from invarlock.moments import utc_now
from invarlock.reports.deployables import MEMORY, SCHEMAS, VALIDATION, validate_artifact
from invarlock.reports.probes import file_name, required_probes
from invarlock.reports.repeats import FILE_NAME as REPEATS_NAME
from invarlock.reports.repeats import repeats_document
from invarlock.reports.sidecars import REPORT_NAME, Packed, edit_metadata, runtime_manifest, stored_as


@dataclass(frozen=True)
class MeasuredCase:
    """A measured case whose files are not written yet.

    Attributes:
        case: the case.
        request: the evaluation.
        made: how the subject was made.
        measurements: the measurements of the subject, one per repeat.
        examined: the further measurements of a deployable subject, by document; empty for other subjects.
    """

    case: Case
    request: EvaluationRequest
    made: MadeSubject
    measurements: Sequence[SubjectMeasurement]
    examined: Mapping[str, Mapping[str, Any]]


def write_case(path: Path, found: MeasuredCase) -> Report:
    """Write a case's report and sidecars, and return the report with its probes and other documents.

    Args:
        path: the path of the report.
        found: the case with its measurements.

    Raises:
        DocumentError: if a document does not match its schema.
    """
    case, request, made, examined = found.case, found.request, found.made, found.examined
    measured, setup, baseline = found.measurements[0], request.setup, request.baseline
    edited = EditDescription(made.name, made.label, made.spec, made.parameters, made.label_source)
    edited = unchanged(edited, measured.digest, baseline.document["baseline"]["digest"])
    edited = replace(edited, expected=made.expected)
    records = subject_records(case)
    signed = case.scenario.document["generation"].get("model_signatures")
    report, *repeats = (
        report_document(request, edited, one, made.seconds, records, signed) for one in found.measurements
    )
    if repeats:
        write_json(path.with_name(REPEATS_NAME), repeats_document(report, repeats))
    data = dump_json(report)
    probes = {
        name: probe_document(name, baseline.document, measured, report)
        for name in required_probes(case.scenario.document)
    }
    if examined:
        bound = {"run_id": report["run_id"], "subject_digest": measured.digest}
        probes |= {name: {"schema": SCHEMAS[name], **bound, **document} for name, document in examined.items()}
        probes[VALIDATION] = validate_artifact(probes, report)
    for name, document in probes.items():
        write_json(path.with_name(file_name(name)), document)
    write_json(
        path.with_name("edit_metadata.json"),
        edit_metadata(
            scenario=case.scenario.document,
            edit_type=edited.name,
            label=edited.label,
            label_source=edited.label_source,
            scope=made.scope,
            parameters=edited.parameters,
            edited_tensors=made.edited_tensors,
            edited_params=made.edited_params,
            total_params=made.total_params,
            subject_digest=measured.digest,
            baseline_digest=baseline.document["baseline"]["digest"],
            packed=_packed(made, examined),
            kept=made.kept,
            stored_as=stored_as(report),
        ),
    )
    write_json(path.with_name("evaluate_timing.json"), report["telemetry"])
    write_bytes(path, data)
    written = utc_now()
    place = PurePosixPath("reports") / case.report_folder / REPORT_NAME
    runtime = runtime_manifest(
        data,
        place,
        report["context"],
        written,
        image=setup.image,
        allow_network=setup.allow_network,
        allow_remote_code=setup.allow_remote_code,
    )
    write_json(path.with_name("runtime.manifest.json"), runtime)
    return cast("Report", {**report, **probes})


def _packed(made: MadeSubject, examined: Mapping[str, Mapping[str, Any]]) -> Packed | None:
    if made.packed_as is None:
        return None
    return Packed(made.name, made.packed_as, examined[MEMORY]["ratio"]["loaded_bytes"] < 1.0)
