"""What ``evaluate`` says of checkpoints that real tools wrote, healthy and damaged."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shipped_checkpoints import EMBEDDED, restore, write_baseline

from invarlock.cli import main

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
SMALL = ("--seq-len", "64", "--preview-windows", "8", "--final-windows", "16")
UP = "model.layers.0.mlp.up_proj"
Tensors = dict[str, torch.Tensor]

pytestmark = pytest.mark.slow


def evaluate(subject: Path, tmp_path: Path) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the report and what was printed."""
    baseline = write_baseline("qwen2-tiny", tmp_path / "baseline")
    for source in (EMBEDDED / "tokenizer").iterdir():  # that of Qwen2 adds a special token when it is saved
        (subject / source.name).write_bytes(source.read_bytes())
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = main(
            [
                "evaluate", "--baseline", str(baseline), "--subject", str(subject), "--text", str(TEXT),
                "--output-dir", str(tmp_path / "out"), *SMALL,
            ]
        )  # fmt: skip
    report = tmp_path / "out" / "evaluation.report.json"
    return code, json.loads(report.read_bytes()) if report.is_file() else {}, output.getvalue()


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("gptq", 4), ("awq", 4), ("auto-round", 4), ("bitsandbytes-int8", 8), ("bitsandbytes-nf4", 4),
        ("torchao-int8", 8),
    ],
)  # fmt: skip
def test_a_healthy_packed_subject_passes(name: str, bits: int, tmp_path: Path) -> None:
    code, report, output = evaluate(restore(name, tmp_path / "subject"), tmp_path)

    assert code == 0, output
    assert report["assurance"]["verdict"] == "PASS"
    assert 0.99 < report["primary_metric"]["ratio_vs_baseline"] < 1.05
    assert report["invariants"]["raw"]["subject"]["storage"]["quantisation"]["bits"] == bits


@pytest.mark.parametrize("name", ["peft-lora", "peft-rslora"])
def test_an_adapter_is_judged_as_its_merged_model(name: str, tmp_path: Path) -> None:
    code, report, output = evaluate(restore(name, tmp_path / "subject"), tmp_path)

    assert code == 0, output
    assert "LoRA" in report["invariants"]["raw"]["subject"]["storage"]["quantisation"]["method"]
    changed = report["invariants"]["raw"]
    assert changed["subject"]["tensors"][f"{UP}.weight"] != changed["baseline"]["tensors"][f"{UP}.weight"]


def swap_nibbles(tensors: Tensors) -> None:
    for name in [one for one in tensors if one.endswith("up_proj.qweight")]:
        words = tensors[name]
        tensors[name] = ((words & 0x0F0F0F0F) << 4) | ((words >> 4) & 0x0F0F0F0F)


def swap_bytes_of_codes(tensors: Tensors) -> None:
    for name in [one for one in tensors if one.endswith("up_proj.weight")]:
        tensors[name] = (tensors[name] << 4) | (tensors[name] >> 4)


def shift_zero_points(tensors: Tensors) -> None:
    for name in [one for one in tensors if one.endswith(".qzeros")]:
        tensors[name] = tensors[name] + 0x11111111


def zero_a_scale(tensors: Tensors) -> None:
    tensors[f"{UP}.scales"][0, 0] = 0


def lose_scales(tensors: Tensors) -> None:
    del tensors[f"{UP}.SCB"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("gptq", swap_nibbles), ("awq", swap_nibbles), ("gptq", shift_zero_points), ("awq", shift_zero_points),
        ("bitsandbytes-nf4", swap_bytes_of_codes), ("auto-round", zero_a_scale), ("bitsandbytes-int8", lose_scales),
    ],
)  # fmt: skip
def test_a_damaged_packed_subject_fails(name: str, damage: Callable[[Tensors], None], tmp_path: Path) -> None:
    subject = restore(name, tmp_path / "subject")
    path = subject / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    damage(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)

    code, report, output = evaluate(subject, tmp_path)

    assert code == 1, output
    assert report["assurance"]["verdict"] == "FAIL"
    assert "Traceback" not in output
