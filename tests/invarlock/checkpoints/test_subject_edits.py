import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from invarlock.catalog.edit_labels import SubjectEdit
from invarlock.catalog.edit_specs import Scope, make_edit_spec
from invarlock.checkpoints.subject_edits import read_subject_edit
from invarlock.errors import DocumentError
from invarlock.reports.sidecars import edit_metadata

BASELINE, SUBJECT = (f"sha256:{digit * 64}" for digit in "ab")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a subject whose every source names another edit."""
    folder = tmp_path / "runs" / "awq" / "mine"
    folder.mkdir(parents=True)
    write(folder, "config.json", {"model_type": "llama", "quantization_config": {"quant_method": "hqq"}})
    write(folder, "edit_metadata.json", described())
    return folder


def write(folder: Path, name: str, document: Any) -> None:
    (folder / name).write_text(json.dumps(document))


def described(**changes: Any) -> dict[str, Any]:
    document = edit_metadata(
        scenario={"artifact_class": "validation_subject_checkpoint"},
        edit_type="magnitude_prune",
        label="magnitude_prune",
        scope="ffn",
        parameters={"sparsity": 0.5},
        edited_tensors=3,
        edited_params=4,
        total_params=5,
        subject_digest=SUBJECT,
        baseline_digest=BASELINE,
    )
    return {**document, **changes}


def test_the_first_source_that_names_the_edit_is_taken(folder: Path) -> None:
    spec = make_edit_spec("magnitude_prune", {"sparsity": 0.5}, Scope("ffn"), "test")
    assert read_subject_edit(folder, "merged") == SubjectEdit("merged", "given")
    assert read_subject_edit(folder, None) == SubjectEdit("magnitude_prune", "edit_metadata", spec, BASELINE, SUBJECT)

    (folder / "edit_metadata.json").unlink()
    assert read_subject_edit(folder, None) == SubjectEdit("hqq", "quantization_config")

    write(folder, "config.json", {"model_type": "llama"})
    assert read_subject_edit(folder, None) == SubjectEdit("awq", "inferred")

    assert read_subject_edit(folder.rename(folder.parents[2] / "mine"), None) == SubjectEdit("custom", None)


@pytest.mark.parametrize(
    ("name", "document", "label"),
    [
        ("config.json", {"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ("config.json", {"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ("config.json", {"quantization_config": {"quant_method": "intel/auto-round"}}, "auto-round"),
        ("config.json", {"quantization_config": {"quant_method": "AWQ"}}, "awq"),
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "gptq"),
        ("quant_config.json", {"w_bit": 4}, "awq"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "modelopt"),
    ],
)
def test_a_quantiser_leaves_its_name(tmp_path: Path, name: str, document: Any, label: str) -> None:
    write(tmp_path, name, document)

    assert read_subject_edit(tmp_path, None) == SubjectEdit(label, "quantization_config")


@pytest.mark.parametrize("method", [{"bits": 4}, {"quant_method": "two words"}, {"quant_method": "x" * 101}])
def test_a_method_without_a_name_is_no_label(tmp_path: Path, method: Any) -> None:
    write(tmp_path, "config.json", {"quantization_config": method})

    assert read_subject_edit(tmp_path, None) == SubjectEdit()


@pytest.mark.parametrize(
    ("changes", "edit"),
    [
        ({"edit_type": "merge", "edit_label": "merge"}, SubjectEdit("merge", "edit_metadata", None, BASELINE, SUBJECT)),
        ({"scope": "everything"}, SubjectEdit("magnitude_prune", "edit_metadata", None, BASELINE, SUBJECT)),
        # it does not name the edit
        ({"edit_type": "custom", "edit_label": "custom"}, SubjectEdit("hqq", "quantization_config")),
        ({"edit_label": "my own edit"}, SubjectEdit("hqq", "quantization_config")),
    ],
)
def test_metadata_of_other_tools_gives_a_label(folder: Path, changes: Any, edit: SubjectEdit) -> None:
    write(folder, "edit_metadata.json", described(**changes))

    assert read_subject_edit(folder, None) == edit


def test_malformed_metadata_is_refused_unless_the_user_names_the_edit(folder: Path) -> None:
    write(folder, "edit_metadata.json", {"edit_label": "gptq"})

    with pytest.raises(DocumentError, match="edit_metadata"):
        read_subject_edit(folder, None)
    assert read_subject_edit(folder, "gptq") == SubjectEdit("gptq", "given")


def test_an_edit_label_comes_from_the_path_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[Callable[[Path], None]] = [Path.mkdir, lambda path: path.symlink_to(tmp_path)]
    for number, make in enumerate(kinds):
        folder = tmp_path / f"{number}-gptq"
        make(folder)
        assert read_subject_edit(folder, None).label == "gptq"
    monkeypatch.chdir(tmp_path / "0-gptq")

    assert read_subject_edit(Path(), None).label == "gptq"
    assert read_subject_edit(Path("../0-gptq/.."), None).label == "custom"
