"""One tensor of a small model stored in any way: judged or refused, never a traceback, and never passed when broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from invarlock.checkpoints.storage_format import check_dense
from invarlock.errors import InvarLockError
from invarlock.evaluation.checkpoint_facts import BaselineWeights, CheckpointFacts, measure_checkpoint
from invarlock.guards.invariants import derive_invariants
from invarlock.guards.spectral import derive_spectral
from invarlock.reports.policy import resolve_policy

TinyModels = Callable[..., Path]
DTYPES = [
    torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float64, torch.float32,
    torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
SHAPES = st.lists(st.integers(0, 6), min_size=0, max_size=4).map(tuple)
NAMES = [
    "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight", "something.else", "weight",
    "model.layers.7.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
]  # fmt: skip


def facts_of(base: Path, folder: Path) -> CheckpointFacts:
    return measure_checkpoint(folder, None, BaselineWeights(base, measure_checkpoint(base, None)))


def judge(base: Path, folder: Path) -> tuple[str, str]:
    """Return what the guards of weights say of a folder against its baseline."""
    before, after = measure_checkpoint(base, None), facts_of(base, folder)
    invariants = derive_invariants({"baseline": before.invariants, "subject": after.invariants}, None)
    raw = {"baseline": before.spectral, "subject": after.spectral, "changes": after.changes}
    spectral = derive_spectral(raw, resolve_policy("balanced", "dev", {})["spectral"])
    return invariants["status"], spectral["status"]


def stored(base: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    shutil.copytree(base, folder, dirs_exist_ok=True)
    weights = load_file(base / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.slow
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(DTYPES), st.none() | SHAPES, st.sampled_from(NAMES))
def test_any_type_shape_and_name_of_a_tensor_is_judged_or_refused(
    tiny_model: TinyModels, tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...] | None, name: str
) -> None:
    base = tiny_model("llama")

    def change(weights: dict[str, torch.Tensor]) -> None:
        kept = weights[name].shape if name in weights else (3, 3)
        weights[name] = torch.ones(kept if shape is None else shape).to(dtype)

    folder = stored(base, tmp_path / "subject", change)

    try:
        status, _ = judge(base, folder)
    except InvarLockError:
        return
    known = name in load_file(base / "model.safetensors")
    if known and shape is not None and shape != tuple(load_file(base / "model.safetensors")[name].shape):
        assert status == "fail"
    if known and not dtype.is_floating_point:
        assert status == "fail"


def test_codes_of_the_same_name_and_shape_fail_and_another_precision_warns(
    tiny_model: TinyModels, tmp_path: Path
) -> None:
    base, name = tiny_model("llama"), "model.layers.0.mlp.up_proj.weight"

    codes = stored(base, tmp_path / "codes", lambda w: w.update({name: (w[name] * 100).to(torch.int8)}))
    half = stored(base, tmp_path / "half", lambda w: w.update({name: w[name].half()}))

    assert judge(base, codes)[0] == "fail"
    assert judge(base, half) == ("warn", "pass")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_buffers_that_older_libraries_stored_are_no_weights(
    tiny_model: TinyModels, tmp_path: Path, architecture: str
) -> None:
    base = tiny_model(architecture)
    extra = {
        "llama": {
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "model.layers.0.self_attn.rotary_emb.cos_cached": torch.ones(1, 1, 8, 4),
            "model.layers.0.self_attn.rotary_emb.sin_cached": torch.ones(1, 1, 8, 4),
            "model.rotary_emb.original_inv_freq": torch.ones(4),
            "model.rotary_emb_local.inv_freq": torch.ones(4),
        },
        "gpt2": {"transformer.h.0.attn.bias": torch.ones(1, 1, 8), "transformer.h.1.attn.masked_bias": torch.ones(1)},
        "gpt_neox": {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8)},
    }[architecture]  # fmt: skip
    older = stored(base, tmp_path / "older", lambda w: w.update(extra))

    assert judge(older, base) == ("pass", "pass")
    assert judge(base, older) == ("pass", "pass")


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.weight", "model.layers.0.mlp.cos_cached"])
def test_another_tensor_that_the_baseline_lacks_is_no_buffer(tiny_model: TinyModels, tmp_path: Path, name: str) -> None:
    base = tiny_model("llama")

    more = stored(base, tmp_path / "more", lambda w: w.update({name: torch.ones(4)}))

    assert judge(base, more)[0] == "fail"


BIASED = "model.layers.0.mlp.up_proj.bias"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_added_bias_of_zeros_changes_nothing_and_any_other_fails(
    tiny_model: TinyModels, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = tiny_model("llama")
    rows = len(load_file(base / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    zero = torch.zeros(rows, dtype=dtype)
    last = zero.clone()
    last[-1] = 1e-6

    def status(name: str, bias: torch.Tensor) -> str:
        return judge(
            base, stored(base, tmp_path / str(len(list(tmp_path.iterdir()))), lambda w: w.update({name: bias}))
        )[0]

    mixed = zero.clone()
    mixed[::3] = -0.0
    assert status(BIASED, zero) == "pass"
    assert status(BIASED, -zero) == "pass"
    assert status(BIASED, mixed) == "pass"
    assert status(BIASED, -last) == "fail"
    assert status(BIASED, mixed.index_fill(0, torch.tensor(5), -1e-6)) == "fail"
    assert status(BIASED, (-zero).repeat(3)) == "fail"
    assert status("lm_head.bias", torch.zeros(len(load_file(base / "model.safetensors")["lm_head.weight"]))) == "pass"
    assert status(BIASED, last) == "fail"
    assert status(BIASED, torch.full_like(zero, float("nan"))) == "fail"
    assert status(BIASED, zero.repeat(3)) == "fail"
    assert status(BIASED, zero[None]) == "fail"
    assert status("model.layers.0.mlp.more_proj.bias", zero) == "fail"
    assert status("model.layers.0.mlp.up_proj.scale", zero) == "fail"


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_bias_that_became_zero_warns_whatever_the_sign_of_its_zeros(
    tiny_model: TinyModels, tmp_path: Path, zero: float
) -> None:
    base, name = tiny_model("gpt2"), "transformer.h.0.attn.c_attn.bias"

    zeroed = stored(base, tmp_path / "zeroed", lambda w: w[name].fill_(zero))
    negated = stored(zeroed, tmp_path / "negated", lambda w: w[name].fill_(-zero))
    nonzero = stored(base, tmp_path / "nonzero", lambda w: w[name].fill_(1.0))

    assert judge(nonzero, zeroed)[0] == "warn"
    assert judge(zeroed, negated)[0] == "pass"
    assert judge(zeroed, nonzero)[0] == "pass"


def test_a_weight_that_is_missing_is_no_buffer(tiny_model: TinyModels, tmp_path: Path) -> None:
    base = tiny_model("gpt2")
    short = stored(base, tmp_path / "short", lambda w: w.pop("transformer.h.0.attn.c_attn.bias"))

    assert judge(base, short)[0] == "fail"


def test_a_tied_head_that_is_stored_on_one_side_is_the_same_model(tiny_model: TinyModels, tmp_path: Path) -> None:
    tied = tiny_model("llama", tied=True)

    def untie(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    head = stored(tied, tmp_path / "stored", untie)
    untied = stored(tied, tmp_path / "untied", untie)
    other = stored(untied, tmp_path / "other", lambda w: w.update({"lm_head.weight": w["lm_head.weight"] * 1.5}))
    for folder in (untied, other):
        config = json.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))

    for subject in (head, untied):
        assert judge(tied, subject) == ("pass", "pass")
        assert judge(subject, tied) == ("pass", "pass")
    assert judge(tied, other)[0] == "fail"
    assert judge(other, tied)[0] == "fail"


def test_a_checkpoint_with_a_matrix_without_rows_is_reshaped(tiny_model: TinyModels, tmp_path: Path) -> None:
    base, name = tiny_model("llama"), "model.layers.0.mlp.up_proj.weight"
    empty = stored(base, tmp_path / "empty", lambda w: w.update({name: torch.zeros(0, 32)}))

    assert check_dense(empty).entries[name].shape == (0, 32)
    assert judge(base, empty)[0] == "fail"
    assert judge(empty, empty)[0] in ("pass", "fail")
