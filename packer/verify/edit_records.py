"""Whether an ``edit_metadata.json`` is the one that its report, its scenario and the baseline's tensors give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.catalog.deployables import BACKENDS, parse_deployable_spec
from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.errors import DocumentError, UsageError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.deployables import CATEGORY
from invarlock.reports.sidecars import Packed, edit_metadata
from invarlock.reports.verification import differences


def edit_record_problems(
    path: str, metadata: Any, report: Mapping[str, Any], scenario: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield what is wrong with a report's edit metadata; how many tensors it changed is what it measured itself.

    Args:
        path: of the ``edit_metadata.json``.
        metadata: the document.
        report: the report beside it, which holds to its schema.
        scenario: the row of the manifest, None when it has none.
    """
    try:
        check_schema(metadata, "edit_metadata", where=path)
    except DocumentError as error:
        yield from (problem.coded(Code.EDIT_METADATA_MALFORMED) for problem in error.problems)
        return
    if scenario is None:
        yield _differs(path, "", "metadata/scenarios.json has no such scenario")
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
            yield _differs(path, key, f"{metadata[key]}, metadata/scenarios.json says {scenario[key]}")
    changed = report["invariants"].get("metrics", {}).get("changed_tensors", 0)
    if edit["name"] != "custom" and changed > coverage["edited_tensors"]:
        words = f"{coverage['edited_tensors']}, but {changed} tensors differ"
        yield _differs(path, "coverage.edited_tensors", words)
    stored = len(report["invariants"].get("raw", {}).get("subject", {}).get("tensors", {}))
    if stored and edit["name"] != "custom" and coverage["edited_tensors"] > max(stored, changed):
        words = f"{coverage['edited_tensors']}, and the subject has {stored}"
        yield _differs(path, "coverage.edited_tensors", words)
    if coverage["edited_params"] > coverage["total_params"]:
        yield _differs(path, "coverage.edited_params", "more than there are")


def _differs(path: str, field: str, message: str) -> Problem:
    return Problem(Code.EDIT_METADATA_DIFFERS, path, field, message)


def _expected(metadata: Mapping[str, Any], report: Mapping[str, Any], scenario: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that a report and its scenario give, with what only the metadata can say.

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
        # about a machine that no pack holds
        kept=metadata["run_directory_contains_edit_artifacts"],
    )


def _scope(edit: Mapping[str, Any], claimed: Any) -> str | None:
    """Return the scope that an edit's spec names; a custom edit's is its maker's word, and a fault has none."""
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
    """Return how a deployable subject is stored; its format and its memory are held against what was measured."""
    if scenario["category"] != CATEGORY:
        return None
    backend = scenario["generation"]["backend"]
    return Packed(backend, metadata["storage_format"], metadata["runtime_memory_reduction"])


def _total_params(report: Mapping[str, Any], claimed: int) -> int:
    """Return the number of parameters of the baseline, where the report has its tensors."""
    raw = report["invariants"].get("raw")
    if raw is None:
        return claimed
    tensors = raw["baseline"]["tensors"].values()
    return sum(math.prod(tensor["shape"]) for tensor in tensors if tensor["dtype"].startswith(("F", "BF")))
