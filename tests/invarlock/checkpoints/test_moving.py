"""Edits that move numbers between matrices: the function stays, and what cannot be moved is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import equivalent_models as made
import pytest
import torch
import transformers
from shipped_checkpoints import EMBEDDED
from tiny_models import CONFIGS

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.moving import MovedWeights
from invarlock.checkpoints.rewriting import rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.edits import BY_NAME
from invarlock.edits.smoothed_rtn import SPREAD
from invarlock.errors import EditError

TRAINED = ("mistral-tiny", "mixtral-tiny", "qwen2-tiny")
RANDOM = ("llama", "qwen3", "gemma", "mixtral", "qwen2_moe")
LAYER_NORM = ("gpt2", "phi", "opt")
# transformers leaves it untyped
AUTO_MODEL: Any = transformers.AutoModelForCausalLM


def write_model(name: str, folder: Path) -> Path:
    """Write a model in float32, so that nothing but the edit changes its function."""
    if name in TRAINED:
        model = AUTO_MODEL.from_pretrained(EMBEDDED / name, dtype=torch.float32)
    else:
        torch.manual_seed(0)
        model = AUTO_MODEL.from_config(CONFIGS[name]())
        made.make_uneven(model)
    model.save_pretrained(folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    model = AUTO_MODEL.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.arange(24).reshape(2, 12) + 3
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens).logits
    return found


def move(baseline: Path, edit: str, subject: Path) -> Path:
    files = read_checkpoint(baseline)
    weights = MovedWeights(files)
    moving = BY_NAME[edit].move
    assert moving is not None
    moving(weights)
    rewrite_checkpoint(files, {subject: weights.rewrite(lambda matrix: matrix)})
    return subject


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        *((name, edit) for name in (*TRAINED, *RANDOM) for edit in ("smoothed_rtn", "rotated_rtn")),
        *((name, "smoothed_rtn") for name in LAYER_NORM),
    ],
)
def test_an_equivalent_rewrite_keeps_the_function(name: str, edit: str, tmp_path: Path) -> None:
    baseline = write_model(name, tmp_path / "baseline")

    subject = move(baseline, edit, tmp_path / "subject")

    before, after = logits(baseline), logits(subject)
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
    stored, moved = read_checkpoint(baseline), read_checkpoint(subject)
    assert {entry.dtype for entry in moved.entries.values()} == {entry.dtype for entry in stored.entries.values()}
    assert (subject / "model.safetensors").read_bytes() != (baseline / "model.safetensors").read_bytes()


@pytest.mark.parametrize("edit", ["smoothed_rtn", "rotated_rtn"])
def test_what_is_drawn_for_a_model_is_always_the_same(edit: str, tmp_path: Path) -> None:
    baseline = write_model("mistral-tiny", tmp_path / "baseline")

    torch.manual_seed(1)
    first = move(baseline, edit, tmp_path / "first")
    torch.manual_seed(2)
    second = move(baseline, edit, tmp_path / "second")

    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_scales_are_drawn_evenly_around_one(tmp_path: Path) -> None:
    baseline = write_model("mistral-tiny", tmp_path / "baseline")

    subject = move(baseline, "smoothed_rtn", tmp_path / "subject")

    before, after = (AUTO_MODEL.from_pretrained(folder, dtype=torch.float32).model for folder in (baseline, subject))
    norms = [
        (one.input_layernorm, other.input_layernorm) for one, other in zip(before.layers, after.layers, strict=True)
    ]
    logs = torch.cat([(other.weight / one.weight).log() for one, other in norms]).detach()
    assert logs.abs().max() < SPREAD + 1e-5
    assert logs.max() > 0.8 * SPREAD
    assert logs.min() < -0.8 * SPREAD


@pytest.mark.parametrize("name", [*LAYER_NORM, "gemma2"])
def test_a_model_that_cannot_be_rotated_is_refused(name: str, tmp_path: Path) -> None:
    baseline = write_model(name, tmp_path / "baseline")

    with pytest.raises(EditError, match="cannot be moved"):
        move(baseline, "rotated_rtn", tmp_path / "subject")

    assert not (tmp_path / "subject").exists()


@pytest.mark.parametrize("edit", ["smoothed_rtn", "rotated_rtn"])
def test_numbers_are_moved_and_the_matrices_of_the_blocks_alone_are_rounded(edit: str, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline"
    shutil.copytree(EMBEDDED / "mixtral-tiny", baseline)
    spec = parse_edit_spec(f"{edit}:2:32")
    assert isinstance(spec, EditSpec)

    summary = apply_edits(baseline, {tmp_path / "subject": spec})[tmp_path / "subject"]

    model = AUTO_MODEL.from_pretrained(tmp_path / "subject", dtype=torch.float32)
    layer = model.model.layers[0]
    levels = [len(row[:32].unique()) for row in layer.self_attn.q_proj.weight]
    assert max(levels) <= 4
    assert len(layer.mlp.gate.weight[0, :32].unique()) > 4
    before = AUTO_MODEL.from_pretrained(baseline, dtype=torch.float32).model.layers[0]
    assert not torch.equal(layer.input_layernorm.weight, before.input_layernorm.weight)
    assert summary.edited_params <= summary.total_params
