"""A checkpoint in float16 whose layers give values that float16 does not have is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from packs import edit_json
from safetensors.torch import load_file, save_file
from shipped_checkpoints import write_baseline
from small_evaluations import evaluate_small

from invarlock.evaluation.float16_range import LargestOutput
from invarlock.evaluation.models import Placement, load_model
from invarlock.reports.verification import verify_report

UP, DOWN = (f"model.layers.1.mlp.{name}_proj" for name in ("up", "down"))
FACTOR = 2.0**15


def stored(folder: Path, dtype: torch.dtype, factor: float) -> Path:
    """Write a model in a dtype, with an up projection times a factor and the down projection divided by it."""
    write_baseline("mistral-tiny", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{UP}.weight"] = tensors[f"{UP}.weight"] * factor
    tensors[f"{DOWN}.weight"] = tensors[f"{DOWN}.weight"] / factor
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
    edit_json(folder / "config.json", lambda config: config.update(dtype=str(dtype).removeprefix("torch.")))
    return folder


@pytest.mark.parametrize(
    ("dtype", "factor", "warns"),
    [
        (torch.float16, FACTOR, True),
        (torch.float16, 1.0, False),
        (torch.bfloat16, FACTOR, False),
        (torch.float32, FACTOR, False),
    ],
)
def test_values_beyond_float16_are_a_warning_of_a_checkpoint_in_float16(
    tmp_path: Path, dtype: torch.dtype, factor: float, *, warns: bool
) -> None:
    write_baseline("mistral-tiny", tmp_path / "base")
    subject = stored(tmp_path / "subject", dtype, factor)

    code, report, printed = evaluate_small(tmp_path / "base", subject, tmp_path / "out")

    assert code == 0, printed
    assert ("float16_overflow" in report["scoring"]) is warns
    assert (f"warning: stored in float16, and {UP} gives values up to " in printed) is warns
    assert verify_report(report) == []
    page = (tmp_path / "out/evaluation.html").read_text()
    assert ("a program that computes in float16 gets infinities" in page) is warns


def test_the_largest_output_is_that_of_the_layer_that_gives_it(tiny_model: Callable[..., Path]) -> None:
    model = load_model(tiny_model("llama"), Placement("cpu"))
    with torch.no_grad():
        model.lm_head.weight *= -1e7

    with LargestOutput(model) as outputs, torch.inference_mode():
        logits = model(torch.arange(8)[None]).logits
    with LargestOutput(model) as none_seen:
        pass

    found = outputs.overflow()
    assert found is not None
    assert (found[0], found[1]) == ("lm_head", float(logits.abs().max()))
    assert none_seen.overflow() is None
    assert not model.lm_head._forward_hooks
