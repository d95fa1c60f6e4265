"""Edits applied to whole checkpoints, against the arithmetic applied by hand to loaded state dicts."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import python
from safetensors.torch import load_file, save_file

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import EditSummary, apply_each_edit, apply_edits
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.edits.fp8_quant import quantize_fp8
from invarlock.edits.lowrank_svd import approximate_lowrank
from invarlock.edits.magnitude_prune import prune_magnitude
from invarlock.edits.quant_rtn import quantize_rtn
from invarlock.errors import CheckpointError, EditError

TinyModels = Callable[..., Path]
Arithmetic = Callable[[torch.Tensor], torch.Tensor]

EDITS: dict[str, Arithmetic] = {
    "quant_rtn:3:16": lambda w: quantize_rtn(w, 3, 16),
    "fp8_quant:e5m2": lambda w: quantize_fp8(w, "e5m2"),
    "magnitude_prune:0.3": lambda w: prune_magnitude(w, 0.3),
    "lowrank_svd:4": lambda w: approximate_lowrank(w, 4),
}


def spec(text: str) -> EditSpec:
    parsed = parse_edit_spec(text)
    assert isinstance(parsed, EditSpec)
    return parsed


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for shard in read_checkpoint(folder).shards for name, t in load_file(folder / shard).items()}


def differing(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("edit", sorted(EDITS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_edit_does_its_arithmetic_to_every_matrix_of_its_scope(
    tiny_model: TinyModels, tmp_path: Path, edit: str, dtype: str
) -> None:
    baseline = tiny_model("llama", 20_000, dtype)
    before = tensors(baseline)

    apply_edits(baseline, {tmp_path / "subject": spec(f"{edit}:ffn@layer=1")})

    taken = {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    after = tensors(tmp_path / "subject")
    assert differing(before, after) == taken
    for name in taken:
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name], EDITS[edit](before[name]))


@pytest.mark.parametrize("edit", sorted(EDITS))
@pytest.mark.parametrize("piece_elements", [1, 33, 100])
def test_pieces_do_not_show_in_the_result(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: str, piece_elements: int
) -> None:
    apply_edits(tiny_model("llama"), {tmp_path / "whole": spec(f"{edit}:ffn")})

    monkeypatch.setattr("invarlock.edits.rows.PIECE_ELEMENTS", piece_elements)
    apply_edits(tiny_model("llama"), {tmp_path / "pieces": spec(f"{edit}:ffn")})

    assert digest_checkpoint(tmp_path / "pieces") == digest_checkpoint(tmp_path / "whole")


@pytest.mark.parametrize("edit", sorted(EDITS))
def test_conv1d_weights_are_edited_as_out_by_in(tiny_model: TinyModels, tmp_path: Path, edit: str) -> None:
    baseline = tiny_model("gpt2")
    before = tensors(baseline)

    apply_edits(baseline, {tmp_path / "subject": spec(f"{edit}:all")})

    after = tensors(tmp_path / "subject")
    parts = "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"
    taken = {f"transformer.h.{layer}.{part}.weight" for layer in (0, 1) for part in parts}
    assert differing(before, after) == taken
    for name in taken:
        assert torch.equal(after[name], EDITS[edit](before[name].T.contiguous()).T)


@pytest.mark.parametrize(("model_type", "transposed"), [("qwen3_moe", False), ("gpt_oss", True)])
@pytest.mark.parametrize("edit", sorted(EDITS))
def test_every_expert_of_a_stack_is_a_matrix(tmp_path: Path, edit: str, model_type: str, transposed: bool) -> None:
    baseline = tmp_path / "baseline"
    baseline.mkdir()
    (baseline / "config.json").write_text(json.dumps({"model_type": model_type}))
    name = "model.layers.0.mlp.experts.down_proj"
    stack = (
        torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 100])[:, None, None]
    )
    save_file({name: stack, "model.layers.0.mlp.gate.weight": torch.ones(3, 8)}, baseline / "model.safetensors")

    summary = apply_edits(baseline, {tmp_path / "subject": spec(f"{edit}:ffn")})[tmp_path / "subject"]

    after = tensors(tmp_path / "subject")
    by_hand = [EDITS[edit](matrix.T.contiguous()).T if transposed else EDITS[edit](matrix) for matrix in stack]
    assert torch.equal(after[name], torch.stack(by_hand))
    assert (after["model.layers.0.mlp.gate.weight"] == 1).all()
    assert (summary.edited_tensors, summary.edited_params, summary.total_params) == (1, 480, 504)


def test_a_mixture_keeps_its_router(tiny_model: TinyModels, tmp_path: Path) -> None:
    baseline = tiny_model("mixtral")
    before = tensors(baseline)

    apply_edits(baseline, {tmp_path / "subject": spec("magnitude_prune:0.5:ffn")})

    changed = differing(before, tensors(tmp_path / "subject"))
    assert changed == {name for name in before if ".experts." in name}
    assert len(changed) == 2 * 4 * 3


def test_several_edits_in_one_pass_are_those_of_several_passes(tiny_model: TinyModels, tmp_path: Path) -> None:
    baseline = tiny_model("llama", 20_000)
    specs = [spec(f"{edit}:all") for edit in EDITS] + [spec("noop"), spec("quant_rtn:8:32:attn@layer=0")]

    together = apply_edits(baseline, {tmp_path / f"together{i}": one for i, one in enumerate(specs)})
    alone = [apply_edits(baseline, {tmp_path / f"alone{i}": one}) for i, one in enumerate(specs)]

    for i in range(len(specs)):
        assert digest_checkpoint(tmp_path / f"together{i}") == digest_checkpoint(tmp_path / f"alone{i}")
        assert together[tmp_path / f"together{i}"] == alone[i][tmp_path / f"alone{i}"]
    assert len({digest_checkpoint(tmp_path / f"alone{i}") for i in range(len(specs))}) == len(specs)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_noop_is_the_same_bytes(tiny_model: TinyModels, tmp_path: Path, architecture: str) -> None:
    baseline = tiny_model(architecture, 20_000)
    total = sum(tensor.numel() for tensor in tensors(baseline).values())

    summaries = apply_edits(baseline, {tmp_path / "subject": spec("noop")})

    assert digest_checkpoint(tmp_path / "subject") == digest_checkpoint(baseline)
    assert summaries == {tmp_path / "subject": EditSummary(0, 0, total, 0.0)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_summary_says_exactly_what_was_done(tiny_model: TinyModels, tmp_path: Path, dtype: str) -> None:
    baseline = tiny_model("qwen2", 1 << 30, dtype)

    summary = apply_edits(baseline, {tmp_path / "subject": spec("magnitude_prune:0.3:ffn")})[tmp_path / "subject"]

    before = tensors(baseline)
    edited = [tensor.numel() for name, tensor in before.items() if ".mlp." in name]
    assert summary == EditSummary(6, sum(edited), sum(tensor.numel() for tensor in before.values()), 0.0)


def test_the_seconds_of_a_pass_are_shared_by_what_each_edit_took(tiny_model: TinyModels, tmp_path: Path) -> None:
    specs = {"noop": "noop", "mild": "quant_rtn:8:32:attn@layer=0", "slow": "lowrank_svd:4:all"}
    # made before the clock starts: the first model of a session imports transformers
    baseline = tiny_model("llama", 20_000)
    started = time.perf_counter()

    made = apply_edits(baseline, {tmp_path / name: spec(text) for name, text in specs.items()})

    passed = time.perf_counter() - started
    seconds = {name: made[tmp_path / name].seconds for name in specs}
    assert 0 < seconds["noop"] < seconds["slow"]
    assert sum(seconds.values()) <= passed


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(tiny_model: TinyModels, tmp_path: Path, tied: bool) -> None:
    baseline = tiny_model("qwen2", 1 << 30, "float32", tied)

    apply_edits(baseline, {tmp_path / "subject": spec("quant_rtn:2:32:all")})

    files = read_checkpoint(tmp_path / "subject")
    assert files.tied is tied
    assert ("lm_head.weight" in files.entries) is not tied
    assert json.loads((tmp_path / "subject" / "config.json").read_text())["tie_word_embeddings"] is tied


def broken(folder: Path, architecture: str, values: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": architecture}))
    save_file(values, folder / "model.safetensors")
    return folder


def test_an_impossible_edit_is_refused_and_leaves_no_files(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    nan = broken(tmp_path / "nan", "llama", {name: torch.ones(4, 4), "lm_head.weight": torch.full((2, 4), math.nan)})
    packed = broken(tmp_path / "packed", "llama", {name: torch.ones(4, 4, dtype=torch.int8)})
    prune = spec("magnitude_prune:0.5:ffn")

    for baseline, edit, error, message in (
        (nan, prune, CheckpointError, "8 of 8 elements of tensor 'lm_head.weight' are not finite"),
        (nan, spec("noop"), CheckpointError, "not finite"),
        (
            nan,
            spec("magnitude_prune:0.5:attn"),
            EditError,
            "scope 'attn' takes none of its 2 tensors; the model has 1 b",
        ),
        (packed, prune, EditError, f"cannot edit '{name}', which is stored as I8; use a checkpoint in F32, F16, BF16"),
    ):
        with pytest.raises(error, match=message):
            apply_edits(baseline, {tmp_path / "noop": spec("noop"), tmp_path / "subject": edit})

    assert {path.name for path in tmp_path.iterdir()} == {"nan", "packed"}


def test_an_edit_that_leaves_the_dtype_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    baseline = broken(tmp_path / "baseline", "llama", {name: torch.full((4, 4), 60_000.0).half()})
    monkeypatch.setattr("invarlock.edits.lowrank_svd.approximate_lowrank", lambda weight, rank: weight * 2)

    with pytest.raises(EditError, match=f"lowrank_svd:1:ffn makes '{name}' non-finite; use another edit"):
        apply_edits(baseline, {tmp_path / "subject": spec("lowrank_svd:1:ffn")})

    assert [path.name for path in tmp_path.iterdir()] == ["baseline"]


def test_an_edit_that_cannot_be_applied_is_left_out_of_its_pass(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = tiny_model("llama", 20_000, "float16")
    monkeypatch.setattr("invarlock.edits.lowrank_svd.approximate_lowrank", lambda weight, rank: weight * math.inf)
    good = {tmp_path / "first": spec("quant_rtn:4:32:ffn"), tmp_path / "last": spec("fp8_quant:e5m2:all")}
    bad = {tmp_path / "infinite": spec("lowrank_svd:1:ffn"), tmp_path / "empty": spec("lowrank_svd:1:ffn@layer=9")}

    made = apply_each_edit(baseline, {tmp_path / "first": good[tmp_path / "first"], **bad, **good})

    assert {folder.name for folder in tmp_path.iterdir()} == {"first", "last"}
    for folder, edit in good.items():
        alone = tmp_path / "alone" / folder.name
        assert made[folder] == apply_edits(baseline, {alone: edit})[alone]
        assert digest_checkpoint(folder) == digest_checkpoint(alone)
    assert "non-finite" in str(made[tmp_path / "infinite"])
    assert "takes none" in str(made[tmp_path / "empty"])
    with pytest.raises(EditError, match="non-finite"):
        apply_edits(baseline, {tmp_path / "one": spec("noop"), tmp_path / "two": spec("lowrank_svd:1:ffn")})
    assert not (tmp_path / "one").exists()


def test_a_pass_of_which_every_edit_fails_ends_at_once(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def fail(weight: torch.Tensor, rank: int) -> torch.Tensor:
        tried.append(rank)
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr("invarlock.edits.lowrank_svd.approximate_lowrank", fail)
    edits = {tmp_path / str(rank): spec(f"lowrank_svd:{rank}:ffn") for rank in (1, 2)}

    made = apply_each_edit(tiny_model("llama", 20_000), edits)

    assert all("failed to converge" in str(made[folder]) for folder in edits)
    assert sorted(tried) == [1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("apply", [apply_edits, apply_each_edit])
def test_an_unreadable_baseline_leaves_no_subject(tmp_path: Path, apply: Callable[..., object]) -> None:
    up, head = "model.layers.0.mlp.up_proj.weight", "lm_head.weight"
    nan = broken(tmp_path / "nan", "llama", {up: torch.ones(4, 4), head: torch.full((2, 4), math.nan)})

    with pytest.raises(CheckpointError, match="not finite"):
        apply(nan, {tmp_path / name: spec("magnitude_prune:0.5:ffn") for name in ("one", "two")})

    assert [path.name for path in tmp_path.iterdir()] == ["nan"]


KILLED = """
import os, signal, sys
from pathlib import Path
from invarlock.catalog.edit_specs import parse_edit_spec
from invarlock.checkpoints import editing
from invarlock.edits import lowrank_svd
lowrank_svd.approximate_lowrank = lambda weight, rank: os.kill(os.getpid(), signal.SIGKILL)
specs = ("quant_rtn:4:32:all", "noop", "lowrank_svd:1:ffn@layer=1")
editing.apply_each_edit(Path(sys.argv[1]), {Path(sys.argv[2], text): parse_edit_spec(text) for text in specs})
"""


def test_a_pass_that_is_killed_leaves_no_subject(tiny_model: TinyModels, tmp_path: Path) -> None:
    baseline, folder = tiny_model("llama", 20_000), tmp_path / "subjects"

    killed = python("-c", KILLED, baseline, folder, seconds=60)

    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 3
    assert all(path.name.startswith(".") for path in folder.iterdir())
    apply_each_edit(baseline, {folder / "next": spec("noop")})
    assert [path.name for path in folder.iterdir()] == ["next"]
