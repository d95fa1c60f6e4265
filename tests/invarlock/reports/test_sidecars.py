"""What an edit's metadata says of it."""

import pytest

from invarlock.catalog.edit_specs import EDIT_NAMES
from invarlock.documents.reports import EditMetadata
from invarlock.errors import DocumentError
from invarlock.reports.sidecars import FAULT_SEMANTICS, edit_metadata

DIGEST = f"sha256:{'0' * 64}"


def metadata(edit_type: str, kind: str) -> EditMetadata:
    return edit_metadata(
        scenario={"artifact_class": "validation_subject_checkpoint", "generation": {"kind": kind}},
        edit_type=edit_type,
        label=edit_type,
        scope=None,
        parameters={},
        edited_tensors=1,
        edited_params=1,
        total_params=2,
        subject_digest=DIGEST,
        baseline_digest=DIGEST,
    )


@pytest.mark.parametrize("name", [*EDIT_NAMES, "custom"])
def test_every_edit_is_described_and_none_as_a_defect(name: str) -> None:
    assert metadata(name, "edit")["edit_semantics"] != FAULT_SEMANTICS


def test_only_a_fault_is_a_deliberate_defect_and_an_unknown_edit_is_an_error() -> None:
    assert metadata("nan_injection", "error")["edit_semantics"] == FAULT_SEMANTICS
    with pytest.raises(DocumentError, match="edit 'hadamard'"):
        metadata("hadamard", "edit")
