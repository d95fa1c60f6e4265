"""Module families against models that transformers builds and saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from invarlock.catalog.edit_specs import Scope, parse_scope
from invarlock.checkpoints.architectures import ARCHITECTURES
from invarlock.checkpoints.families import Module, classify, matching_rows, matrices, tensors_in_scope
from invarlock.checkpoints.roles_by_name import by_name
from invarlock.checkpoints.safetensors_files import CheckpointFiles, read_checkpoint
from invarlock.errors import EditError

TinyModels = Callable[..., Path]

FAMILIES_OF_LLAMA_BLOCK = {
    "self_attn.q_proj": ("attn", "q"),
    "self_attn.k_proj": ("attn", "k"),
    "self_attn.v_proj": ("attn", "v"),
    "self_attn.o_proj": ("attn", "o"),
    "mlp.gate_proj": ("ffn", "gate"),
    "mlp.up_proj": ("ffn", "up"),
    "mlp.down_proj": ("ffn", "down"),
    "input_layernorm": ("norm", ""),
    "post_attention_layernorm": ("norm", ""),
}


def scope_names(files: CheckpointFiles, scope: str) -> list[str]:
    return list(tensors_in_scope(files.model_type, files.shapes, parse_scope(scope, where="test"), where="test"))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_weight_of_an_architecture_has_one_family(tiny_model: TinyModels, architecture: str) -> None:
    files = read_checkpoint(tiny_model(architecture))

    for name, shape in files.shapes.items():
        module = classify(architecture, name, shape)
        segments = name.removesuffix(".weight").removesuffix(".bias").split(".")
        pattern = ".".join("*" if segment.isdigit() else segment for segment in segments)
        assert module.family != "other", name
        assert len(matching_rows(architecture, pattern)) == 1, name
        # What is one number a feature is a norm or a bias, and nothing else is.
        assert (module.family == "norm" or name.endswith("bias")) == (len(shape) == 1), name
    assert {module.family for module in files.modules.values()} >= {"attn", "ffn", "embed", "norm"}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_scope_takes_matrices_of_its_family_in_every_block(tiny_model: TinyModels, architecture: str) -> None:
    files = read_checkpoint(tiny_model(architecture))

    attention, ffn = scope_names(files, "attn"), scope_names(files, "ffn")

    assert sorted(attention + ffn) == sorted(scope_names(files, "all"))
    assert not set(attention) & set(ffn)
    for names in (attention, ffn):
        assert {files.modules[name].layer for name in names} == {0, 1}
        assert all(len(files.shapes[name]) == 2 for name in names)
    assert scope_names(files, "ffn@layer=1") == [name for name in ffn if files.modules[name].layer == 1]
    # Every matrix of a block but routers is in scope.
    left = {name for name, shape in files.shapes.items() if len(shape) > 1} - set(attention) - set(ffn)
    assert {files.modules[name].family for name in left} <= {"embed", "router"}


def test_a_table_names_no_module_twice() -> None:
    for architecture in ARCHITECTURES.values():
        names = [row[0] for row in architecture.modules]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize(("module", "expected"), FAMILIES_OF_LLAMA_BLOCK.items())
def test_a_llama_block_by_hand(prefix: str, module: str, expected: tuple[str, str]) -> None:
    found = classify("llama", f"{prefix}layers.17.{module}.weight", (8, 8))

    assert (found.family, found.role) == expected
    assert (found.layer, found.expert, found.transposed, found.experts) == (17, None, False, False)


@pytest.mark.parametrize(
    ("model_type", "name", "shape", "expected"),
    [
        ("gpt2", "transformer.h.0.attn.c_attn.weight", (32, 96), Module("attn", "qkv", 0, None, True, False)),
        ("gpt2", "h.11.mlp.c_proj.weight", (128, 32), Module("ffn", "down", 11, None, True, False)),
        ("gpt2", "transformer.wte.weight", (64, 32), Module("embed", "tokens", None, None, False, False)),
        ("gpt2", "h.0.attn.bias", (1, 1, 8, 8), Module("other", "", 0, None, False, False)),
        (
            "mixtral",
            "model.layers.3.block_sparse_moe.experts.1.w1.weight",
            (48, 32),
            Module("ffn", "gate", 3, 1, False, False),
        ),
        (
            "mixtral",
            "model.layers.3.block_sparse_moe.gate.weight",
            (8, 32),
            Module("router", "", 3, None, False, False),
        ),
        (
            "mixtral",
            "model.layers.3.mlp.experts.gate_up_proj",
            (8, 96, 32),
            Module("ffn", "gate_up", 3, None, False, True),
        ),
        (
            "qwen2_moe",
            "model.layers.0.mlp.shared_expert_gate.weight",
            (1, 32),
            Module("router", "", 0, None, False, False),
        ),
        ("gpt_neox", "embed_out.weight", (64, 32), Module("embed", "head", None, None, False, False)),
        ("llama", "lm_head.weight", (64, 32), Module("embed", "head", None, None, False, False)),
        ("llama", "model.layers.0.self_attn.q_proj_extra.weight", (8, 8), Module("other", "", 0, None, False, False)),
        ("bert", "bert.embeddings.LayerNorm.gamma", (32,), Module("norm", "", None, None, False, False)),
    ],
)
def test_names_by_hand(model_type: str, name: str, shape: tuple[int, ...], expected: Module) -> None:
    assert classify(model_type, name, shape) == expected


def test_matrices_come_in_the_order_of_computation() -> None:
    names = [
        "model.layers.10.self_attn.q_proj.weight",
        "model.layers.2.block_sparse_moe.experts.0.w2.weight",
        "model.layers.2.block_sparse_moe.experts.10.w1.weight",
        "model.layers.2.block_sparse_moe.experts.9.w1.weight",
        "model.layers.2.block_sparse_moe.experts.0.w3.weight",
        "model.layers.2.self_attn.o_proj.weight",
        "model.layers.2.self_attn.q_proj.weight",
        "model.layers.2.input_layernorm.weight",
        "lm_head.weight",
    ]
    shapes = {name: (8,) if "norm" in name else (8, 8) for name in names}

    assert list(matrices("mixtral", shapes)) == [names[i] for i in (6, 5, 3, 2, 4, 1, 0)]


def test_expert_stacks_are_in_scope() -> None:
    shapes = {"model.layers.0.mlp.experts.down_proj": (4, 32, 24), "model.layers.0.mlp.gate.weight": (4, 32)}

    assert list(tensors_in_scope("qwen3_moe", shapes, Scope("ffn"), where="test")) == [*shapes][:1]


def test_a_scope_that_takes_nothing_names_model_scope_and_blocks(tiny_model: TinyModels) -> None:
    files = read_checkpoint(tiny_model("llama"))

    with pytest.raises(EditError, match=r"^tiny: scope 'ffn@layer=2' takes none of its 21 tensors.*2 blocks, numbered"):
        tensors_in_scope("llama", files.shapes, Scope("ffn", 2), where="tiny")


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_names_alone_give_the_same_families_as_a_table(tiny_model: TinyModels, architecture: str) -> None:
    for name, shape in read_checkpoint(tiny_model(architecture)).shapes.items():
        segments = name.split(".")
        is_parameter = segments[-1] not in ("weight", "bias")
        known = classify(architecture, name, shape)

        found = by_name(segments if is_parameter else segments[:-1], shape, is_parameter=is_parameter)

        assert found[0] == known.family, name
        if known.role not in ("projection", "head"):
            assert found[1] == known.role, name


@pytest.mark.parametrize(
    ("model_type", "name", "shape", "expected"),
    [
        ("mamba", "backbone.layers.7.mixer.in_proj.weight", (128, 32), Module("attn", "", 7, None, False, False)),
        ("mamba", "backbone.layers.7.mixer.A_log", (64, 8), Module("other", "", 7, None, False, False)),
        ("nemotron_h", "backbone.layers.1.mixer.up_proj.weight", (48, 32), Module("ffn", "up", 1, None, False, False)),
        (
            "deepseek_v3",
            "model.layers.3.mlp.experts.17.down_proj.weight",
            (32, 24),
            Module("ffn", "down", 3, 17, False, False),
        ),
        ("deepseek_v3", "model.layers.3.mlp.gate.weight", (4, 32), Module("router", "", 3, None, False, False)),
        (
            "gpt_oss",
            "model.layers.0.mlp.experts.gate_up_proj",
            (4, 32, 96),
            Module("ffn", "gate_up", 0, None, True, True),
        ),
        (
            "longcat_flash",
            "model.layers.2.self_attn.1.o_proj.weight",
            (32, 32),
            Module("attn", "o", 2, None, False, False),
        ),
        ("openai-gpt", "transformer.h.0.attn.c_attn.weight", (32, 96), Module("attn", "qkv", 0, None, True, False)),
        (
            "qwen3_5",
            "model.visual.blocks.0.mlp.linear_fc1.weight",
            (48, 32),
            Module("other", "", 0, None, False, False),
        ),
        (
            "qwen3_5",
            "model.language_model.layers.0.mlp.up_proj.weight",
            (48, 32),
            Module("ffn", "up", 0, None, False, False),
        ),
        ("bloom", "word_embeddings_layernorm.weight", (32,), Module("norm", "", None, None, False, False)),
        ("unheard_of", "weight", (8, 8), Module("other", "", None, None, False, False)),
    ],
)
def test_names_of_types_without_a_table(model_type: str, name: str, shape: tuple[int, ...], expected: Module) -> None:
    assert classify(model_type, name, shape) == expected
