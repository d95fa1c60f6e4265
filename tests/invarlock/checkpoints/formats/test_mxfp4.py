"""Stacks of experts as gpt-oss stores them, written by hand: its packing needs a GPU. transformers converts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from invarlock.checkpoints.storage_format import check_dense, open_checkpoint
from invarlock.errors import CheckpointError

STACK = "model.layers.0.mlp.experts.gate_up_proj"
DOWN = "model.layers.0.mlp.experts.down_proj"
BLOCKS, SCALES = f"{STACK}_blocks", f"{STACK}_scales"
EXPERTS, WIDTH, UNITS = 4, 64, 32
Tensors = dict[str, torch.Tensor]


def write_model(folder: Path, edit: Callable[[Tensors], Any] = lambda tensors: None, method: str = "mxfp4") -> Path:
    """Write the experts and the router of one block, of random codes and scales."""
    generator = torch.Generator().manual_seed(0)

    def stack(name: str, rows: int, columns: int) -> Tensors:
        shape = (EXPERTS, rows, columns // 32)
        return {
            f"{name}_blocks": torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8),
            f"{name}_scales": torch.randint(118, 124, shape, generator=generator, dtype=torch.uint8),
            f"{name}_bias": torch.zeros(EXPERTS, rows, dtype=torch.bfloat16),
        }

    tensors = {
        **stack(STACK, 2 * UNITS, WIDTH),
        **stack(DOWN, WIDTH, UNITS),
        "model.layers.0.mlp.router.weight": torch.randn(EXPERTS, WIDTH, generator=generator).bfloat16(),
        "model.norm.weight": torch.ones(WIDTH, dtype=torch.bfloat16),
    }
    edit(tensors)
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    packed = {"quant_method": method, "modules_to_not_convert": ["model.layers.*.mlp.router"]}
    config = {"model_type": "gpt_oss", "dtype": "bfloat16", "quantization_config": packed}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_stacks_are_read_as_transformers_converts_them(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    folder = write_model(tmp_path / "model")
    stored = load_file(folder / "model.safetensors")

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert checkpoint.files.shapes == {
        STACK: (EXPERTS, WIDTH, 2 * UNITS), f"{STACK}_bias": (EXPERTS, 2 * UNITS),
        DOWN: (EXPERTS, UNITS, WIDTH), f"{DOWN}_bias": (EXPERTS, WIDTH),
        "model.layers.0.mlp.router.weight": (EXPERTS, WIDTH), "model.norm.weight": (WIDTH,),
    }  # fmt: skip
    for name in (STACK, DOWN):
        wanted = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"])
        assert torch.equal(checkpoint.read(name), wanted)
    storage = checkpoint.storage()
    assert storage.quantisation is not None
    assert (storage.quantisation.bits, storage.quantisation.group_size) == (4, 32)
    assert storage.quantisation.ignored_modules == ("model.layers.*.mlp.router",)
    assert 8 * storage.packed_bytes / storage.packed_weights == 4.25
    assert storage.unpacked_modules[-1] == "model.layers.0.mlp.router.weight"


def first_is(name: str, value: int) -> Callable[[Tensors], Any]:
    def edit(tensors: Tensors) -> None:
        tensors[name].view(-1)[0] = value

    return edit


def becomes(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("edit", "kind", "reason"),
    [
        (lambda tensors: tensors.pop(BLOCKS), "packing", "blocks is missing"),
        (lambda tensors: tensors.pop(SCALES), "scale", "gate_up_proj_scales is missing"),
        (first_is(SCALES, 255), "scale", "scales: 1 of 512 values is not finite"),
        (becomes(SCALES, lambda one: one[:, :-1]), "scale", "has shape [4, 63, 2], not [4, 64, 2]"),
        (becomes(SCALES, lambda one: one[:-1]), "scale", "has shape [3, 64, 2], not [4, 64, 2]"),
        (becomes(SCALES, lambda one: one.float()), "scale", "scales is stored as F32, not as U8"),
        (becomes(BLOCKS, lambda one: one.int()), "packing", "blocks is stored as I32"),
        (becomes(BLOCKS, lambda one: one[..., :8]), "packing", "not as blocks of 16 bytes"),
        (becomes(BLOCKS, lambda one: one.flatten(2)), "packing", "of shape [4, 64, 32], not as blocks"),
        (lambda tensors: tensors.update({STACK: torch.zeros(4, 64, 64)}), "packing", "stored packed and dense"),
    ],
)
def test_a_defect_of_a_stack_is_one_line(
    edit: Callable[[Tensors], Any], kind: str, reason: str, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_model(tmp_path / "model", edit))

    (defect,) = checkpoint.check()

    assert (defect.tensor, defect.kind) == (STACK, kind)
    assert reason in defect.reason
    assert "\n" not in defect.reason
    assert all(checkpoint.read(name).numel() > 0 for name in checkpoint.files.entries)


def test_a_missing_expert_changes_the_shape(tmp_path: Path) -> None:
    def skip(tensors: Tensors) -> None:
        for name in (BLOCKS, SCALES):
            tensors[name] = tensors[name][:-1]

    checkpoint = open_checkpoint(write_model(tmp_path / "model", skip))

    assert checkpoint.files.shapes[STACK] == (EXPERTS - 1, WIDTH, 2 * UNITS)
    assert checkpoint.check() == ()


def test_a_config_that_declares_dense_weights_packed_is_refused(tmp_path: Path) -> None:
    def dense(tensors: Tensors) -> None:
        for name in [one for one in tensors if one.endswith(("_blocks", "_scales"))]:
            del tensors[name]

    with pytest.raises(CheckpointError, match="no tensor is"):
        open_checkpoint(write_model(tmp_path / "model", dense))


def test_a_packed_model_is_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="stored as MXFP4, usually by gpt-oss"):
        check_dense(write_model(tmp_path / "model"))
