"""The types of documents have the fields of their schemas, and require the same ones."""

import json
from importlib import resources
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from invarlock.documents import catalog, provenance, reports, runs, signatures, verification
from invarlock.reports.documents import NullRunDocument, PresetDocument
from invarlock.verdict.documents import SweepDocument

# The type of each document, by the name of its schema.
TYPES = {
    "source_repo": provenance.SourceRepository,
    "environment": provenance.Environment,
    "shard": runs.ShardDocument,
    "pytest_report": runs.PytestReport,
    "progress": runs.ProgressDocument,
    "disk_pressure": runs.DiskPressureDocument,
    "evaluation_report": reports.Report,
    "baseline_report": reports.BaselineReport,
    "task_records": reports.TaskRecordsDocument,
    "edit_metadata": reports.EditMetadata,
    "runtime_manifest": reports.RuntimeManifest,
    "model_revisions": catalog.PinsDocument,
    "calibrated_preset": PresetDocument,
    "null_run": NullRunDocument,
    "determinism_repeats": verification.RepeatsDocument,
    "guard_value_sweep": SweepDocument,
    "manifest_signature": signatures.ManifestSignature,
    "attestation": signatures.Attestation,
}


@pytest.mark.parametrize("name", TYPES)
def test_a_type_has_the_fields_of_its_schema(name: str) -> None:
    document = json.loads(resources.files("invarlock.contracts").joinpath(f"{name}.schema.json").read_bytes())

    assert list(differences(TYPES[name], document, document, "$")) == []


def test_a_selection_has_the_fields_of_its_schema() -> None:
    whole = json.loads(resources.files("invarlock.contracts").joinpath("scenarios.schema.json").read_bytes())

    assert differences(catalog.Selection, whole["properties"]["selection"], whole, "$") == []


def test_differences_from_a_schema_are_found() -> None:
    class Inner(TypedDict):
        kept: int

    class Outer(TypedDict):
        rows: list[Inner]
        lost: str
        never: NotRequired[str]

    inner = {"properties": {"kept": {}, "new": {}}, "required": ["kept"], "additionalProperties": False}
    schema = {
        "properties": {"rows": {"type": "array", "items": {"$ref": "#/$defs/row"}}},
        "required": ["rows"],
        "additionalProperties": False,
        "$defs": {"row": inner},
    }

    assert list(differences(Outer, schema, schema, "$")) == ["$: fields: lost", "$.rows[]: fields: new"]


def differences(kind: Any, schema: dict[str, Any], whole: dict[str, Any], place: str) -> list[str]:
    """Return where a type and a schema have other fields, or require others."""
    while "$ref" in schema:
        group, name = schema["$ref"].split("/")[1:]
        schema = whole[group][name]
    if get_origin(kind) is NotRequired:
        (kind,) = get_args(kind)
    if get_origin(kind) is list and "items" in schema:
        return differences(get_args(kind)[0], schema["items"], whole, f"{place}[]")
    # a table that may have other fields is described further than its schema does
    if not is_typeddict(kind) or schema.get("additionalProperties", True) is not False:
        return []
    hints, properties = get_type_hints(kind, include_extras=True), schema.get("properties", {})
    # a type of several documents may have fields that one of them never has
    required = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
    wrong = {key for key in hints.keys() ^ properties.keys() if key in required or key in properties}
    found = [f"{place}: fields: {', '.join(sorted(wrong))}"] if wrong else []
    if not wrong and required != set(schema.get("required", ())):
        found.append(f"{place}: required: {', '.join(sorted(required ^ set(schema['required'])))}")
    for key in sorted(hints.keys() & properties.keys()):
        found += differences(hints[key], properties[key], whole, f"{place}.{key}")
    return found
