"""A mixture of experts that transformers 5 saved with stacks of experts is judged like one with a tensor for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shipped_checkpoints import EMBEDDED, write_baseline
from small_evaluations import evaluate_small
from transformers import AutoModelForCausalLM

from invarlock.reports.verification import verify_report

Tensors = dict[str, torch.Tensor]
# A change of the tensors of each expert, w1, w2 and w3, of shape (expert, out, in).
Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]

APART = "model.layers.0.block_sparse_moe.experts"


def round_weights(*experts: torch.Tensor) -> None:
    for stack in experts:
        scale = stack.float().abs().amax(dim=-1, keepdim=True) / 127
        stack.copy_((stack.float() / scale).round() * scale)


def damage_one(first: torch.Tensor, second: torch.Tensor, third: torch.Tensor) -> None:
    second[2] = 0.1 * torch.randn(second[2].shape, generator=torch.Generator().manual_seed(0))


def swap_two(*experts: torch.Tensor) -> None:
    for stack in experts:
        stack.copy_(stack[[0, 2, 1, 3]].clone())


def swap_gate_and_up(first: torch.Tensor, second: torch.Tensor, third: torch.Tensor) -> None:
    kept = first.clone()
    first.copy_(third)
    third.copy_(kept)


def break_one_value(first: torch.Tensor, second: torch.Tensor, third: torch.Tensor) -> None:
    second[1, 3, 4] = float("nan")


def copy_one(*experts: torch.Tensor) -> None:
    for stack in experts:
        stack[1] = stack[0]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder with a tensor for each expert, and one to write stacks to."""
    return write_baseline("mixtral-tiny", tmp_path / "apart"), tmp_path / "stacked"


def changed(folder: Path, target: Path, change: Change) -> Path:
    """Write a checkpoint with changed experts in its first block."""
    shutil.copytree(folder, target)
    tensors = load_file(folder / "model.safetensors")
    names = [[f"{APART}.{number}.{part}.weight" for number in range(4)] for part in ("w1", "w2", "w3")]
    stacks = [torch.stack([tensors[name] for name in part]) for part in names]
    change(*stacks)
    for part, stack in zip(names, stacks, strict=True):
        tensors |= {name: expert.clone() for name, expert in zip(part, stack, strict=True)}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def stacked(folder: Path, target: Path) -> Path:
    """Save a model with stacks of experts."""
    load: Any = AutoModelForCausalLM.from_pretrained  # transformers gives it no type
    load(folder, dtype="auto").save_pretrained(target, save_original_format=False)
    for source in (EMBEDDED / "tokenizer").iterdir():
        shutil.copyfile(source, target / source.name)
    return target


@pytest.mark.parametrize("change", [lambda *_: None, round_weights])
def test_a_healthy_model_passes_in_either_form(change: Change, folders: tuple[Path, Path], tmp_path: Path) -> None:
    apart = folders[0]
    subject = changed(apart, tmp_path / "subject", change)
    pairs = {
        "stacked": (apart, stacked(subject, tmp_path / "stacked-subject")),
        "apart": (stacked(apart, folders[1]), subject),
    }

    for name, pair in pairs.items():
        code, report, output = evaluate_small(*pair, tmp_path / f"out-{name}")

        assert code == 0, output
        assert report["invariants"]["violations"] == []
        assert [row["kind"] for row in report["equivalence"]] == ["names"]
        assert len(report["equivalence"][0]["modules"]) == 6
        assert verify_report(report) == []


def test_the_same_weights_in_stacks_count_as_unchanged(folders: tuple[Path, Path], tmp_path: Path) -> None:
    apart, target = folders

    _, report, _ = evaluate_small(apart, stacked(apart, target), tmp_path / "out")

    assert report["invariants"]["metrics"]["changed_tensors"] == 0
    assert report["spectral"]["raw"]["changes"] == {}
    assert report["primary_metric"]["ratio_vs_baseline"] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        swap_two,
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (damage_one, swap_gate_and_up, break_one_value, copy_one)
        ),
    ],
)
def test_a_broken_model_fails_in_stacks_as_it_does_apart(
    change: Change, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    apart, target = folders
    subject = changed(apart, tmp_path / "subject", change)

    found = [evaluate_small(apart, one, tmp_path / f"out-{one.name}") for one in (subject, stacked(subject, target))]

    assert [code for code, _, _ in found] == [1, 1]
    one, other = (report for _, report, _ in found)
    for guard in one["guards"]:
        assert other[guard] == one[guard], guard
    assert other["primary_metric"] == one["primary_metric"]
