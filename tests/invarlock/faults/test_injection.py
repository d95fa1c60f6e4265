"""Each fault on real small models: what it changes, what it leaves, and when it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.errors import CheckpointError, EditError, InvarLockError
from invarlock.faults import BY_NAME as FAULTS
from invarlock.faults.injection import FaultSummary, inject_fault

TinyModels = Callable[..., Path]
Tensors = dict[str, torch.Tensor]

ARCHITECTURES = "llama", "mixtral", "gpt2"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BLOCK = "model.layers.{}."
ATTENTION = [f"{BLOCK.format(layer)}self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qkvo"]


def tensors(folder: Path) -> Tensors:
    return {name: t for shard in read_checkpoint(folder).shards for name, t in load_file(folder / shard).items()}


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def inject(
    error_type: str, baseline: Path, subject: Path, params: dict[str, Any] | None = None
) -> tuple[FaultSummary, Tensors, Tensors]:
    """Return the summary and the tensors before and after; the summary names exactly those that differ."""
    summary = inject_fault(error_type, baseline, subject, params or {})
    before, after = tensors(baseline), tensors(subject)
    differing = {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not torch.equal(before[name], after[name])
    }
    assert summary.changed_tensors == tuple(sorted(differing))
    assert summary.error_type == error_type
    assert summary.detail
    assert (subject / "tokenizer.json").read_bytes() == (baseline / "tokenizer.json").read_bytes()
    return summary, before, after


@pytest.mark.parametrize("architecture", ARCHITECTURES)
# those of packed subjects are in test_packed
@pytest.mark.parametrize("error_type", sorted(FAULTS.keys() - {"nibble_swap", "stale_scale", "zero_point_shift"}))
def test_every_fault_breaks_every_architecture_the_same_way_twice(
    tiny_model: TinyModels, tmp_path: Path, architecture: str, error_type: str
) -> None:
    baseline = tiny_model(architecture, 20_000, "bfloat16")

    summary, _, after = inject(error_type, baseline, tmp_path / "subject")
    again, _, after_again = inject(error_type, baseline, tmp_path / "again")

    assert summary == again
    assert all(torch.equal(after[name].view(torch.int16), after_again[name].view(torch.int16)) for name in after)
    finite = all(bool(tensor.isfinite().all()) for tensor in after.values())
    assert finite == (error_type not in ("nan_injection", "inf_injection"))


@pytest.mark.parametrize(
    ("error_type", "architecture", "tensor"),
    [
        ("nan_injection", "llama", "model.layers.0.mlp.gate_proj.weight"),
        ("nan_injection", "mixtral", "model.layers.0.block_sparse_moe.experts.0.w1.weight"),
        ("nan_injection", "gpt2", "transformer.h.0.mlp.c_fc.weight"),
        ("inf_injection", "llama", "model.layers.0.self_attn.q_proj.weight"),
        ("inf_injection", "gpt2", "transformer.h.0.attn.c_attn.weight"),
    ],
)
def test_one_element_of_the_first_block_is_not_finite(
    tiny_model: TinyModels, tmp_path: Path, error_type: str, architecture: str, tensor: str
) -> None:
    summary, before, after = inject(error_type, tiny_model(architecture), tmp_path / "subject")

    assert summary.changed_tensors == (tensor,)
    assert summary.parameters_used == {}
    value = after[tensor].flatten()[0]
    assert value.isnan() if error_type == "nan_injection" else value == math.inf
    assert torch.equal(after[tensor].flatten()[1:], before[tensor].flatten()[1:])


def test_a_tensor_can_be_named(tiny_model: TinyModels, tmp_path: Path) -> None:
    summary, _, after = inject("nan_injection", tiny_model("llama"), tmp_path / "subject", {"tensor": HEAD})

    assert summary.parameters_used == {"tensor": HEAD}
    assert int(after[HEAD].isnan().sum()) == 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi", "gpt_neox", "bert"])
def test_shape_mismatch_grows_embedding_and_head_and_the_model_still_loads(
    tiny_model: TinyModels, tmp_path: Path, architecture: str
) -> None:
    baseline = tiny_model(architecture)

    summary, before, after = inject("shape_mismatch", baseline, tmp_path / "subject")

    assert summary.parameters_used == {"rows": 8}
    assert config(tmp_path / "subject") == {**config(baseline), "vocab_size": 72}
    for name in summary.changed_tensors:
        assert after[name].shape == (72, *before[name].shape[1:])
        assert torch.equal(after[name][:64], before[name])
        assert torch.allclose(after[name][64:], before[name].mean(dim=0).expand_as(after[name][64:]), atol=1e-7)
    kind = transformers.AutoModelForMaskedLM if architecture == "bert" else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(tmp_path / "subject")
    embedding: Any = model.get_input_embeddings()
    assert embedding.weight.shape[0] == 72
    assert model(torch.tensor([[3, 71]])).logits.shape[-1] == 72


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_missing_tensors_are_those_of_the_last_block(tiny_model: TinyModels, tmp_path: Path, shard_bytes: int) -> None:
    baseline = tiny_model("llama", shard_bytes)

    summary, before, _ = inject("missing_tensors", baseline, tmp_path / "subject")

    assert set(summary.changed_tensors) == {name for name in before if name.startswith(BLOCK.format(1))}
    assert config(tmp_path / "subject") == config(baseline)


def test_extreme_quant_has_one_scale_a_tensor(tiny_model: TinyModels, tmp_path: Path) -> None:
    _, before, after = inject("extreme_quant", tiny_model("llama"), tmp_path / "subject")

    for name, weight in before.items():
        # 2 bits have the levels -2 to 1 and the scale is the largest magnitude: -2 is never reached.
        largest = weight.abs().max()
        expected = torch.round(weight / largest) * largest if weight.ndim == 2 else weight
        assert torch.equal(after[name], expected), name


def test_scale_explosion_takes_the_first_ffn_matrix_or_the_named_one(tiny_model: TinyModels, tmp_path: Path) -> None:
    first = BLOCK.format(0) + "mlp.gate_proj.weight"

    summary, before, after = inject("scale_explosion", tiny_model("llama"), tmp_path / "first")
    named, _, after_named = inject(
        "scale_explosion", tiny_model("llama"), tmp_path / "named", {"tensor": ATTENTION[5], "factor": 3}
    )

    assert (summary.changed_tensors, summary.parameters_used) == ((first,), {"factor": 100.0})
    assert torch.equal(after[first], before[first] * 100)
    assert (named.changed_tensors, named.parameters_used) == (
        (ATTENTION[5],),
        {"tensor": ATTENTION[5], "factor": 3},
    )
    assert torch.equal(after_named[ATTENTION[5]], before[ATTENTION[5]] * 3)


@pytest.mark.parametrize(("params", "expected"), [({}, ATTENTION), ({"max_tensors": 3}, ATTENTION[:3])])
def test_rank_collapse_keeps_the_norm(
    tiny_model: TinyModels, tmp_path: Path, params: dict[str, Any], expected: list[str]
) -> None:
    summary, before, after = inject("rank_collapse", tiny_model("llama"), tmp_path / "subject", params)

    assert summary.changed_tensors == tuple(sorted(expected))
    assert summary.parameters_used == {"max_tensors": 8, **params}
    for name in expected:
        singular = torch.linalg.svdvals(after[name])
        assert singular[1] < 1e-5 * singular[0]
        assert torch.allclose(after[name].norm(), before[name].norm(), rtol=1e-5)
        direction = torch.outer(before[name][:, 0], before[name][0])
        assert torch.allclose(after[name] / after[name].norm(), direction / direction.norm(), atol=1e-6)


def test_norm_collapse_leaves_zeros_or_a_fraction(tiny_model: TinyModels, tmp_path: Path) -> None:
    summary, before, after = inject("norm_collapse", tiny_model("llama"), tmp_path / "zero")
    _, _, tenth = inject("norm_collapse", tiny_model("llama"), tmp_path / "tenth", {"max_tensors": 1, "factor": 0.1})

    assert summary.changed_tensors == tuple(sorted(ATTENTION))
    assert summary.parameters_used == {"max_tensors": 32, "factor": 0.0}
    assert not any(after[name].any() for name in ATTENTION)
    assert torch.equal(tenth[ATTENTION[0]], before[ATTENTION[0]] * 0.1)
    assert torch.equal(tenth[ATTENTION[1]], before[ATTENTION[1]])


@pytest.mark.parametrize(
    ("architecture", "head", "embedding"),
    [("gemma", HEAD, EMBEDDING), ("gpt2", HEAD, "transformer.wte.weight")],
)
@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_a_tied_head_is_untied_and_the_model_loads_so(
    tiny_model: TinyModels, tmp_path: Path, architecture: str, head: str, embedding: str, shard_bytes: int
) -> None:
    summary, before, after = inject("weight_tying_break", tiny_model(architecture, shard_bytes), tmp_path / "subject")

    assert head not in before
    assert summary.changed_tensors == (head,)
    noise = after[head] - before[embedding]
    assert float(noise.std() / before[embedding].std()) == pytest.approx(0.05, rel=0.1)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "subject")
    assert model.config.tie_word_embeddings is False
    tokens: Any = model.get_input_embeddings()
    assert torch.equal(model.get_output_embeddings().weight, after[head])
    assert torch.equal(tokens.weight, before[embedding])


def test_an_untied_head_is_tied(tiny_model: TinyModels, tmp_path: Path) -> None:
    summary, before, after = inject("weight_tying_break", tiny_model("llama"), tmp_path / "subject")

    assert summary.changed_tensors == (HEAD,)
    assert after.keys() == before.keys() - {HEAD}
    assert read_checkpoint(tmp_path / "subject").tied
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "subject")
    assert torch.equal(model.get_output_embeddings().weight, before[EMBEDDING])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_row_noise_keeps_row_norms_and_turns_the_fraction_of_rows(
    tiny_model: TinyModels, tmp_path: Path, architecture: str
) -> None:
    up = {"llama": BLOCK.format(1) + "mlp.up_proj.weight", "gpt2": "transformer.h.1.mlp.c_fc.weight"}[architecture]
    params = {"modules": [up], "fraction": 0.1, "blend": 0.8, "seed": 3}

    summary, before, after = inject("rmt_norm_noise", tiny_model(architecture), tmp_path / "subject", params)

    assert (summary.changed_tensors, summary.parameters_used) == ((up,), params)
    old, new = (t[up].T if architecture == "gpt2" else t[up] for t in (before, after))
    turned = (old != new).any(dim=1)
    assert int(turned.sum()) == round(0.1 * len(old))
    assert torch.allclose(old.norm(dim=1), new.norm(dim=1), rtol=1e-5)
    units = torch.nn.functional.normalize(new[turned], dim=1)
    assert float((units @ units.T).mean()) > 0.8
    # Every new row lies between its old one and the one direction that all share.
    old_units = torch.nn.functional.normalize(old[turned], dim=1)
    assert torch.linalg.svdvals(torch.cat([units, old_units]))[len(units) + 1] < 1e-4


def test_row_noise_takes_a_family_and_a_strength(tiny_model: TinyModels, tmp_path: Path) -> None:
    weak, _, _ = inject("rmt_norm_noise", tiny_model("llama"), tmp_path / "weak", {"family": "attn"})
    strong, _, _ = inject("rmt_norm_noise_strong", tiny_model("llama"), tmp_path / "strong")

    assert weak.changed_tensors == tuple(sorted(ATTENTION))
    assert all(".mlp." in name for name in strong.changed_tensors)
    assert len(strong.changed_tensors) == 6
    assert weak.parameters_used["blend"] < strong.parameters_used["blend"]


@pytest.mark.parametrize(
    ("error_type", "params", "factor", "names"),
    [
        ("spectral_moderate_scale", {}, 1.5, [ATTENTION[3], ATTENTION[7]]),
        ("spectral_moderate_scale", {"max_modules": 1}, 1.5, [ATTENTION[3]]),
        ("spectral_moderate_scale", {"modules": [HEAD], "factor": 1.25}, 1.25, [HEAD]),
        ("spectral_moderate_scale_mlp", {"max_modules": 1}, 1.4, [BLOCK.format(0) + "mlp.up_proj.weight"]),
        ("ve_mlp_scale_skew", {}, 0.9, [BLOCK.format(0) + "mlp.down_proj.weight"]),
        ("ve_mlp_scale_skew", {"layer": 1, "factor": 0.5}, 0.5, [BLOCK.format(1) + "mlp.down_proj.weight"]),
        ("ve_mlp_scale_skew", {"module": ATTENTION[0]}, 0.9, [ATTENTION[0]]),
    ],
)
def test_a_moderate_scale_multiplies_what_it_names(
    tiny_model: TinyModels, tmp_path: Path, error_type: str, params: dict[str, Any], factor: float, names: list[str]
) -> None:
    summary, before, after = inject(error_type, tiny_model("llama"), tmp_path / "subject", params)

    assert summary.changed_tensors == tuple(sorted(names))
    assert summary.parameters_used["factor"] == factor
    assert all(torch.equal(after[name], before[name] * factor) for name in names)


def test_a_skew_takes_every_expert_of_the_block(tiny_model: TinyModels, tmp_path: Path) -> None:
    summary, _, _ = inject("ve_mlp_scale_skew", tiny_model("mixtral"), tmp_path / "subject", {"layer": 1})

    experts = [f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight" for expert in range(4)]
    assert list(summary.changed_tensors) == experts


@pytest.mark.parametrize(
    ("error_type", "params", "message"),
    [
        ("absent", {}, "fault 'absent' is unknown; known: nan_injection, .*, ve_mlp_scale_skew"),
        ("missing_tensors", {"block": 1}, "missing_tensors: unknown parameter 'block'; it takes none"),
        ("scale_explosion", {"factr": 3}, "unknown parameter 'factr'; it takes tensor, factor"),
        ("scale_explosion", {"factor": "3"}, "'factor' is '3', it must be a finite number$"),
        ("scale_explosion", {"factor": math.inf}, "'factor' is 'inf', it must be a finite number"),
        ("scale_explosion", {"factor": True}, "'factor' is 'True'"),
        ("scale_explosion", {"factor": 1}, "changes no tensor of .*; use other parameters"),
        ("scale_explosion", {"factor": 1e39}, "a factor of 1e\\+39 leaves torch.float32; use a smaller one"),
        ("scale_explosion", {"tensor": "absent"}, "has no tensor 'absent'; give an existing one"),
        ("nan_injection", {"tensor": 3}, "'tensor' is '3', it must be a text"),
        ("norm_collapse", {"factor": 2}, "'factor' is '2', it must be a finite number from 0 to 1"),
        ("norm_collapse", {"factor": 1}, "changes no tensor"),
        ("rank_collapse", {"max_tensors": 0}, "'max_tensors' is '0', it must be a whole number of at least 1"),
        ("rank_collapse", {"max_tensors": 2.0}, "must be a whole number"),
        ("rmt_norm_noise", {"modules": []}, "'modules' is .* it must be a list of distinct names"),
        ("rmt_norm_noise", {"modules": [ATTENTION[0]] * 2}, "a list of distinct names"),
        ("rmt_norm_noise", {"modules": [HEAD]}, "'lm_head.weight' is not an attention or FFN matrix; name one"),
        ("rmt_norm_noise", {"modules": [ATTENTION[0]], "family": "ffn"}, "unknown parameter 'family'"),
        ("rmt_norm_noise", {"family": "norm"}, "'family' is 'norm', it must be one of ffn, attn"),
        ("rmt_norm_noise", {"blend": 0}, "'blend' is '0', it must be a finite number from 0.001 to 1"),
        ("ve_mlp_scale_skew", {"layer": 2}, "has no FFN output matrix in block 2; use another model"),
        ("weight_tying_break", {"seed": -1}, "'seed' is '-1', it must be a whole number of at least 0"),
    ],
)
def test_an_impossible_fault_is_refused_and_leaves_no_files(
    tiny_model: TinyModels, tmp_path: Path, error_type: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(EditError, match=message) as caught:
        inject_fault(error_type, tiny_model("llama"), tmp_path / "subject", params)

    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def make_checkpoint(folder: Path, values: Tensors, **more: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | more))
    save_file(values, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("error_type", sorted(FAULTS.keys() - {"extreme_quant"}))
def test_a_checkpoint_without_what_a_fault_breaks_is_refused(tmp_path: Path, error_type: str) -> None:
    baseline = make_checkpoint(tmp_path / "baseline", {"model.norm.weight": torch.ones(4)})

    with pytest.raises(EditError, match=f"fault {error_type}: .*baseline has no .*; use another model or another"):
        inject_fault(error_type, baseline, tmp_path / "subject", {})

    assert not (tmp_path / "subject").exists()


@pytest.mark.parametrize(
    ("error_type", "values", "error", "message"),
    [
        ("extreme_quant", {"model.norm.weight": torch.ones(4)}, EditError, "has no 2-D weight"),
        (
            "missing_tensors",
            {ATTENTION[0]: torch.ones(4, 4), HEAD: torch.full((4,), math.nan)},
            CheckpointError,
            "finite",
        ),
        ("rank_collapse", {ATTENTION[0]: torch.eye(4)[1:].contiguous()}, EditError, "first row or column of zeros"),
        ("weight_tying_break", {EMBEDDING: torch.ones(4, 4)}, EditError, "has no output head, tied or stored"),
        ("weight_tying_break", {EMBEDDING: torch.ones(4, 4), HEAD: torch.ones(4, 3)}, EditError, "another shape than"),
        ("nan_injection", {ATTENTION[0]: torch.ones(4, 4, dtype=torch.int8)}, EditError, "no attention or FFN matrix"),
        ("norm_collapse", {ATTENTION[0]: torch.zeros(4, 4)}, EditError, "changes no tensor"),
        (
            "scale_explosion",
            {"model.layers.0.mlp.up_proj.weight": torch.full((2, 2), 9e3).half()},
            EditError,
            "float16",
        ),
    ],
)
def test_a_checkpoint_to_which_a_fault_does_not_apply_is_refused(
    tmp_path: Path, error_type: str, values: Tensors, error: type[InvarLockError], message: str
) -> None:
    baseline = make_checkpoint(tmp_path / "baseline", values)

    with pytest.raises(error, match=message):
        inject_fault(error_type, baseline, tmp_path / "subject", {})

    assert [path.name for path in tmp_path.iterdir()] == ["baseline"]


def test_a_tensor_that_was_broken_already_is_not_called_changed(tmp_path: Path) -> None:
    values = {ATTENTION[0]: torch.zeros(4, 4), ATTENTION[1]: torch.ones(4, 4)}

    summary = inject_fault("norm_collapse", make_checkpoint(tmp_path / "baseline", values), tmp_path / "subject", {})

    assert summary.changed_tensors == (ATTENTION[1],)


def test_a_tensor_of_integers_cannot_be_named(tmp_path: Path) -> None:
    baseline = make_checkpoint(tmp_path / "baseline", {"mask": torch.ones(2, 2, dtype=torch.int8)})

    with pytest.raises(EditError, match=r"'mask' of .* is stored as I8 \[2, 2\]; give a weight in F32, F16, BF16"):
        inject_fault("nan_injection", baseline, tmp_path / "subject", {"tensor": "mask"})


def test_experts_of_a_stack_are_rounded_one_by_one(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    stack = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 100])[:, None, None]
    baseline = make_checkpoint(tmp_path / "baseline", {name: stack}, model_type="qwen3_moe")

    inject_fault("extreme_quant", baseline, tmp_path / "subject", {})

    largest = stack.abs().amax(dim=(1, 2), keepdim=True)
    assert torch.equal(tensors(tmp_path / "subject")[name], torch.round(stack / largest) * largest)
