"""The accompanying files of a report: edit metadata, runtime manifest and timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from invarlock.digests import sha256_hex
from invarlock.documents.reports import EditMetadata, RuntimeManifest
from invarlock.edits import BY_NAME
from invarlock.errors import DocumentError
from invarlock.jsonio import check_schema

EDIT_METADATA_SCHEMA = "invarlock/evidence-pack-edit-metadata-v1"
RUNTIME_MANIFEST = "runtime-manifest-v1"
REPORT_NAME = "evaluation.report.json"
PAGE_NAME = "evaluation.html"
# Telemetry flags (1 or 0) next to the seconds: whether the baseline was reused, and whether the page is rendered later.
BASELINE_REUSED, RENDER_DEFERRED = "baseline_report_reused", "render_deferred"

CUSTOM = "custom"
CUSTOM_STORAGE = "dense_float"
CUSTOM_SEMANTICS = "made outside of InvarLock, by an edit that is not known"
PACKED_SEMANTICS = "weights packed by a backend, as they are served"
FAULT_STORAGE = "dense_float"
FAULT_SEMANTICS = "a deliberate defect, made to see whether it is caught"


def report_file(path: Path) -> Path:
    """Return the file of a report that is named by itself or by the folder that it lies in."""
    return path / REPORT_NAME if path.is_dir() else path


@dataclass(frozen=True)
class RuntimeImage:
    """The container image of a run: the requested name, and its digest ``sha256:<hex>``."""

    reference: str
    digest: str


@dataclass(frozen=True)
class Packed:
    """How a backend stores a deployable subject, and whether the loaded model takes less memory as measured."""

    backend: str
    storage_format: str
    memory_reduced: bool


def edit_metadata(
    *,
    scenario: Mapping[str, Any],
    edit_type: str,
    label: str,
    scope: str | None,
    parameters: Mapping[str, Any],
    edited_tensors: int,
    edited_params: int,
    total_params: int,
    subject_digest: str,
    baseline_digest: str,
    packed: Packed | None = None,
    kept: bool = False,
    label_source: str | None = None,
    stored_as: str = FAULT_STORAGE,
) -> EditMetadata:
    """Return the ``edit_metadata.json`` of a subject: the description of its edit.

    Args:
        scenario: the scenario's row in ``scenarios.json``.
        edit_type: the name of the edit or fault.
        label: the edit's name, ``noop``, or for a user's subject ``custom`` or the user's label.
        scope: the edit's scope, None if it has none.
        parameters: the parameters that the edit or fault used.
        edited_tensors: the number of changed tensors.
        edited_params: the number of elements in the changed tensors.
        total_params: the number of elements in the whole checkpoint.
        subject_digest: digest of the subject's checkpoint.
        baseline_digest: digest of the baseline's checkpoint.
        packed: how a deployable subject is stored; None for a validation subject.
        kept: whether the subject's checkpoint stays in the run directory.
        label_source: the source of the label, None if the label is the edit's name.
        stored_as: how a fault's subject is stored, as returned by the function ``stored_as``.

    Raises:
        DocumentError: when the document would not match its schema, or the edit is unknown.
    """
    storage, semantics = (
        _described(edit_type, scenario, stored_as) if packed is None else (packed.storage_format, PACKED_SEMANTICS)
    )
    document = {
        "schema": EDIT_METADATA_SCHEMA,
        "artifact_class": scenario["artifact_class"],
        "edit_type": edit_type,
        "edit_label": label,
        **({} if label_source is None else {"edit_label_source": label_source}),
        "edit_semantics": semantics,
        "storage_format": storage,
        "actual_storage_format": storage,
        "backend": None if packed is None else packed.backend,
        "deployable_as_hf_checkpoint": packed is not None,
        "optimized_deployment_backend": None if packed is None else packed.backend,
        "packed_quantized_storage": packed is not None,
        "runtime_memory_reduction": packed is not None and packed.memory_reduced,
        "runtime_memory_reduction_expected": packed is not None,
        "run_directory_contains_edit_artifacts": kept,
        "scope": scope,
        "parameters": dict(parameters),
        "coverage": {
            "edited_tensors": edited_tensors,
            "edited_params": edited_params,
            "total_params": total_params,
            "coverage_ratio": edited_params / total_params if total_params else 0.0,
        },
        "subject_digest": subject_digest,
        "baseline_digest": baseline_digest,
    }
    check_schema(document, "edit_metadata", where="edit_metadata.json")
    return cast("EditMetadata", document)


def stored_as(report: Mapping[str, Any]) -> str:
    """Return the storage format of a report's subject, according to the measurements."""
    storage = report["invariants"].get("raw", {}).get("subject", {}).get("storage")
    return FAULT_STORAGE if storage is None or storage["quantisation"] is None else str(storage["format"])


def _described(edit_type: str, scenario: Mapping[str, Any], stored_as: str) -> tuple[str, str]:
    """Return the storage and the edit of a subject as text; only a fault is called a deliberate defect."""
    if edit_type == CUSTOM:
        return CUSTOM_STORAGE, CUSTOM_SEMANTICS
    if edit_type in BY_NAME:
        return BY_NAME[edit_type].storage_format, BY_NAME[edit_type].semantics
    if scenario.get("generation", {}).get("kind") == "error":
        return stored_as, FAULT_SEMANTICS
    raise DocumentError(f"edit {edit_type!r}: unknown to InvarLock, so it cannot be described")


def runtime_manifest(
    report: bytes,
    path: PurePosixPath,
    context: Mapping[str, Any],
    generated_at: str,
    *,
    image: RuntimeImage | None = None,
    allow_network: bool = False,
    allow_remote_code: bool = False,
) -> RuntimeManifest:
    """Return the ``runtime.manifest.json`` that binds a report's bytes to its execution environment.

    Args:
        report: the bytes of ``evaluation.report.json``.
        path: path of the report, relative to the pack.
        context: the report's ``context``.
        generated_at: the time in UTC.
        image: the container image, None if the run was on the host.
        allow_network: whether the run was allowed to connect to the hub before its cases.
        allow_remote_code: whether the model's own code was run.

    Raises:
        DocumentError: when the document would not match its schema.
    """
    document: RuntimeManifest = {
        "manifest_version": 1,
        "verifier_contract_version": RUNTIME_MANIFEST,
        "generated_at_utc": generated_at,
        "report": {"path": str(path), "filename": path.name, "sha256": sha256_hex(report)},
        "config": {"path": None, "sha256": None, "source": "inline"},
        "execution_mode": context["execution_mode"],
        "runtime": {
            "image_ref": None if image is None else image.reference,
            "image_digest": None if image is None else image.digest,
            "container_execution": context["execution_mode"] == "container",
            "allow_network": allow_network,
            "allow_remote_code": allow_remote_code,
            "allow_third_party_plugins": False,
        },
        "context": {
            "assurance": "report",
            "command": "pytest",
            "profile": context["profile"],
            "tier": context["tier"],
            "execution_mode": context["execution_mode"],
        },
    }
    check_schema(document, "runtime_manifest", where="runtime.manifest.json")
    return document
