"""Whether each ``edit_metadata.json`` agrees with the report beside it and with the scenario that asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.packer import layout
from invarlock.packer.claims import PackData
from invarlock.packer.layout import beside, is_report

from invarlock.errors import DocumentError
from invarlock.jsonio import check_schema


def check_edit_records(data: PackData) -> Iterator[str]:
    """Yield what is wrong with the edit metadata of a pack, one line each."""
    scenarios = _scenarios(data.documents.get(layout.SCENARIOS))
    expected = {beside(path, layout.EDIT_METADATA): path for path in data.documents if is_report(path)}
    for path in sorted(data.documents):
        if path.endswith(f"/{layout.EDIT_METADATA}") and path not in expected:
            yield f"{path}: edit metadata without a report beside it"
    for path, report_path in sorted(expected.items()):
        metadata, report = data.documents.get(path), data.documents[report_path]
        try:
            check_schema(metadata, "edit_metadata", where=path)
        except DocumentError as error:
            yield str(error)
            continue
        if isinstance(report, dict):
            yield from _disagreements(path, metadata, report, scenarios)


def _scenarios(document: Any) -> dict[str, Mapping[str, Any]]:
    rows = document.get("scenarios") if isinstance(document, dict) else None
    return {row["id"]: row for row in rows if isinstance(row, dict) and "id" in row} if isinstance(rows, list) else {}


def _disagreements(
    path: str, metadata: Any, report: Mapping[str, Any], scenarios: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    edit = _object(report, "edit")
    pairs = [
        ("subject_digest", metadata["subject_digest"], _object(report, "subject").get("digest")),
        ("baseline_digest", metadata["baseline_digest"], _object(report, "baseline_ref").get("digest")),
        ("edit_type", metadata["edit_type"], edit.get("name")),
        ("edit_label", metadata["edit_label"], edit.get("label")),
        ("parameters", metadata["parameters"], edit.get("parameters")),
    ]
    for key, found, wanted in pairs:
        if found != wanted:
            yield f"{path}: {key} is not that of the report beside it"
    coverage = metadata["coverage"]
    total = coverage["total_params"]
    if coverage["edited_params"] > total or coverage["coverage_ratio"] != (
        coverage["edited_params"] / total if total else 0.0
    ):
        yield f"{path}: coverage does not add up"
    scenario = scenarios.get(str(_object(report, "meta").get("scenario")))
    if scenario is None:
        yield f"{path}: {layout.SCENARIOS} has no such scenario"
        return
    for key in ("artifact_class", "run_directory_contains_edit_artifacts"):
        if key in scenario and metadata[key] != scenario[key]:
            yield f"{path}: {key} is not that of the scenario"


def _object(report: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = report.get(key)
    return value if isinstance(value, dict) else {}
