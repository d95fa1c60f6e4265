"""The types of a pack's documents have the same fields as their schemas and as the written documents."""

import json
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from invarlock.packer.format import documents
from packs import VERDICT

from invarlock.verdict.documents import Verdict

SCHEMA = json.loads(resources.files("invarlock.contracts").joinpath("evidence_pack_manifest.schema.json").read_bytes())[
    "properties"
]


def test_the_type_of_a_manifest_has_the_fields_of_its_schema() -> None:
    assert get_type_hints(documents.Manifest).keys() == SCHEMA.keys()


@pytest.mark.parametrize(
    ("kind", "block"),
    [
        (documents.Reference, SCHEMA["subject"]),
        (documents.Reference, SCHEMA["materials"]["items"]),
        (documents.BaselineReference, SCHEMA["verification_baselines"]["items"]),
        (documents.Invocation, SCHEMA["invocation"]),
        (documents.Verification, SCHEMA["verification"]),
        (documents.ModelReference, SCHEMA["models"]["items"]),
        (documents.Builder, SCHEMA["builder"]),
    ],
)
def test_the_type_of_each_block_has_the_fields_of_its_schema(kind: type, block: dict[str, Any]) -> None:
    assert get_type_hints(kind).keys() == block["properties"].keys()


def test_the_type_of_a_verdict_has_the_fields_that_are_written(pack: Path) -> None:
    verdict = json.loads((pack / VERDICT).read_bytes())

    assert verdict.keys() == get_type_hints(Verdict).keys() - {"not_bundled"}
    assert verdict["manifest"].keys() == get_type_hints(get_type_hints(Verdict)["manifest"]).keys()
