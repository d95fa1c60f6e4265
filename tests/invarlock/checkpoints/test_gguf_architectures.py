"""GGUF files of many architectures, written by llama.cpp's converter: each is read as the model it was made from."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch
from gguf_architectures import MODELS, write_small_model
from gguf_files import rewrite
from safetensors.torch import load_file

from invarlock.checkpoints.formats.gguf_names import CONVERSIONS
from invarlock.checkpoints.storage_format import open_checkpoint

gguf = pytest.importorskip("gguf")

ARCHIVE = Path(__file__).parents[2] / "data" / "shipped" / "gguf-architectures.tar.xz"
# The tests of kept checkpoints read these, from a model with a vocabulary.
OTHERS = {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_every_architecture_that_is_read_has_a_file() -> None:
    read = {one for conversion in CONVERSIONS.values() for one in conversion.model_types}

    assert set(MODELS) == read - OTHERS


@pytest.mark.parametrize("model_type", MODELS)
def test_a_file_is_read_as_the_model_it_was_made_from(model_type: str, files: Path, tmp_path: Path) -> None:
    base = write_small_model(model_type, tmp_path)

    checkpoint = open_checkpoint(files / f"{model_type}.gguf", base)

    stored = load_file(base / "model.safetensors")
    assert set(checkpoint.files.entries) == set(stored)
    assert [name for name, weight in stored.items() if not torch.equal(checkpoint.read(name), weight)] == []
    assert checkpoint.check() == ()


@pytest.mark.parametrize(
    ("model_type", "field", "value", "key"),
    [
        ("granite", "attention_multiplier", 0.25, "granite.attention.scale"),
        ("granite", "embedding_multiplier", 6.0, "granite.embedding_scale"),
        ("granite", "residual_multiplier", 1.0, "granite.residual_scale"),
        ("granite", "logits_scaling", 4.0, "granite.logit_scale"),
        ("cohere", "logit_scale", 0.5, "command-r.logit_scale"),
        ("olmo", "clip_qkv", 4.0, "olmo.attention.clamp_kqv"),
        ("starcoder2", "norm_epsilon", 1e-3, "starcoder2.attention.layer_norm_epsilon"),
        ("phi", "partial_rotary_factor", 1.0, "phi2.rope.dimension_count"),
    ],
)
def test_a_number_that_llama_cpp_would_compute_with_is_compared(
    model_type: str, field: str, value: float, key: str, files: Path, tmp_path: Path
) -> None:
    base = write_small_model(model_type, tmp_path, **{field: value})

    defects = open_checkpoint(files / f"{model_type}.gguf", base).check()

    assert [defect.reason.split(" is ")[0] for defect in defects] == [key]


@pytest.mark.parametrize(
    ("model_type", "fields", "removed", "reason"),
    [
        ("granite", {}, "granite.embedding_scale", "granite.embedding_scale is missing, in the baseline 12"),
        ("granite", {}, "granite.attention.scale", "granite.attention.scale is missing, in the baseline 0.125"),
        ("cohere", {}, "command-r.logit_scale", "command-r.logit_scale is missing, in the baseline 0.25"),
        ("olmo", {}, "olmo.attention.clamp_kqv", "olmo.attention.clamp_kqv is missing, in the baseline 8"),
        (
            "exaone4", {"sliding_window": None}, None,
            "exaone4.attention.sliding_window is 4096, and the baseline has no window",
        ),
    ],
)  # fmt: skip
def test_a_number_that_one_side_lacks_is_a_defect(
    model_type: str, fields: dict[str, None], removed: str | None, reason: str, files: Path, tmp_path: Path
) -> None:
    base = write_small_model(model_type, tmp_path / "base", **fields)
    path = tmp_path / "model.gguf"
    path.write_bytes((files / f"{model_type}.gguf").read_bytes())
    rewrite(path, metadata={removed: None} if removed else {})

    assert [defect.reason for defect in open_checkpoint(path, base).check()] == [reason]
