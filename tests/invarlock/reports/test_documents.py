"""The types of documents and the schemas that documents are checked against name the same fields."""

import json
from pathlib import Path
from typing import Any, get_type_hints, is_typeddict

import pytest

from invarlock.reports.documents import NullRunDocument, PresetDocument

CONTRACTS = Path(__file__).parents[3] / "contracts"


@pytest.mark.parametrize(("name", "shape"), [("calibrated_preset", PresetDocument), ("null_run", NullRunDocument)])
def test_a_typed_document_has_the_fields_of_its_schema(name: str, shape: type) -> None:
    schema = json.loads((CONTRACTS / f"{name}.schema.json").read_bytes())

    assert list(differing(shape, schema, name)) == []


def test_a_field_that_only_one_of_them_has_is_found() -> None:
    schema = json.loads((CONTRACTS / "null_run.schema.json").read_bytes())
    del schema["properties"]["meta"]["properties"]["device"]

    assert list(differing(NullRunDocument, schema, "null_run")) == ["null_run.meta: device"]


def differing(shape: Any, schema: dict[str, Any], where: str) -> Any:
    """Yield the fields that only the type or only the schema has, or that one of them requires."""
    typed, fields = get_type_hints(shape), schema["properties"]
    different = (set(typed) ^ set(fields)) | (set(shape.__required_keys__) ^ set(schema["required"]))
    if different:
        yield f"{where}: {', '.join(sorted(different))}"
    for name, kind in typed.items():
        inner = fields.get(name, {})
        if is_typeddict(kind):
            yield from differing(kind, inner, f"{where}.{name}")
        elif "items" in inner and kind.__args__ and is_typeddict(kind.__args__[0]):
            yield from differing(kind.__args__[0], inner["items"], f"{where}.{name}")
