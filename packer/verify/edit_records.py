"""Checking that an ``edit_metadata.json`` follows from its report, its scenario and the baseline's tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.catalog.deployables import BACKENDS, parse_deployable_spec
from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.documents.reports import EditMetadata
from invarlock.errors import DocumentError, UsageError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.deployables import CATEGORY
from invarlock.reports.sidecars import Packed, edit_metadata, stored_as
from invarlock.reports.verification import differences


def edit_record_problems(
    path: str, metadata: Any, report: Mapping[str, Any], scenario: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield the problems of a report's edit metadata; the number of changed tensors is a measurement, not derived.

    Args:
        path: the path of the ``edit_metadata.json``.
        metadata: the document in that file.
        report: the report in the same folder, which matches its schema.
        scenario: the scenario's row in the effective manifest, or None.
    """
    try:
        check_schema(metadata, "edit_metadata", where=path)
    except DocumentError as error:
        yield from (problem.coded(Code.EDIT_METADATA_MALFORMED) for problem in error.problems)
        return
    if scenario is None:
        yield _differs(path, "", "its scenario is not in metadata/scenarios.json")
        return
    edit, coverage = report["edit"], metadata["coverage"]
    try:
        expected = _expected(metadata, report, scenario)
    except DocumentError as error:
        yield _differs(path, "", str(error))
        return
    yield from differences(metadata, expected, where=path, code=Code.EDIT_METADATA_DIFFERS)
    for key in ("deployable_as_hf_checkpoint", "optimized_deployment_backend"):
        if scenario.get(key, metadata[key]) != metadata[key]:
            yield _differs(path, key, f"{metadata[key]}, but metadata/scenarios.json has {scenario[key]}")
    changed = report["invariants"].get("metrics", {}).get("changed_tensors", 0)
    if edit["name"] != "custom" and changed > coverage["edited_tensors"]:
        words = f"{coverage['edited_tensors']}, but {changed} tensors differ"
        yield _differs(path, "coverage.edited_tensors", words)
    stored = len(report["invariants"].get("raw", {}).get("subject", {}).get("tensors", {}))
    if stored and edit["name"] != "custom" and coverage["edited_tensors"] > max(stored, changed):
        words = f"{coverage['edited_tensors']}, but the subject has {stored}"
        yield _differs(path, "coverage.edited_tensors", words)
    if coverage["edited_params"] > coverage["total_params"]:
        yield _differs(path, "coverage.edited_params", "more than the model has")


def _differs(path: str, field: str, message: str) -> Problem:
    return Problem(Code.EDIT_METADATA_DIFFERS, path, field, message)


def _expected(metadata: Mapping[str, Any], report: Mapping[str, Any], scenario: Mapping[str, Any]) -> EditMetadata:
    """Return the metadata derived from a report and its scenario; fields that only the metadata has are kept.

    Raises:
        DocumentError: when the report's edit is unknown.
    """
    edit, coverage = report["edit"], metadata["coverage"]
    return edit_metadata(
        scenario=scenario,
        edit_type=edit["name"],
        label=edit["label"],
        label_source=edit.get("label_source"),
        scope=_scope(edit, metadata["scope"]),
        parameters=edit["parameters"],
        edited_tensors=coverage["edited_tensors"],
        edited_params=coverage["edited_params"],
        total_params=_total_params(report, coverage["total_params"]),
        subject_digest=report["subject"]["digest"],
        baseline_digest=report["baseline_ref"]["digest"],
        packed=_packed(metadata, scenario),
        # this fact about the machine cannot be derived
        kept=metadata["run_directory_contains_edit_artifacts"],
        stored_as=stored_as(report),
    )


def _scope(edit: Mapping[str, Any], claimed: Any) -> str | None:
    """Return the scope in an edit's spec; the scope of a custom edit is taken as claimed, and a fault has none."""
    if edit["name"] == "custom":
        return None if claimed is None else str(claimed)
    try:
        if edit["name"] in BACKENDS:
            return str(parse_deployable_spec(edit["spec"]).scope)
        spec = parse_edit_spec(edit["spec"])
    except UsageError:
        return None
    return None if not isinstance(spec, EditSpec) or spec.scope is None else str(spec.scope)


def _packed(metadata: Mapping[str, Any], scenario: Mapping[str, Any]) -> Packed | None:
    """Return how a deployable subject is stored; format and memory are compared with the measured values."""
    if scenario["category"] != CATEGORY:
        return None
    backend = scenario["generation"]["backend"]
    return Packed(backend, metadata["storage_format"], metadata["runtime_memory_reduction"])


def _total_params(report: Mapping[str, Any], claimed: int) -> int:
    """Return the number of parameters of the baseline if the report lists its tensors, else the claimed number."""
    raw = report["invariants"].get("raw")
    if raw is None:
        return claimed
    tensors = raw["baseline"]["tensors"].values()
    return sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"].startswith(("F", "BF")))
