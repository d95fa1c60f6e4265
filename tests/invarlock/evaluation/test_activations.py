"""Measuring activations: which layers are covered, and that nothing of the model is changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from invarlock.checkpoints.families import matrices
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.evaluation.activations import measure_activations, scaled_outputs
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.scoring import score_windows

TinyModels = Callable[..., Path]
TOKENS = np.arange(9 * 16, dtype=np.int32).reshape(9, 16) % 50
CAUSAL = (
    "llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "gpt2", "gpt_neox", "opt", "phi",
    "gemma", "gemma2", "gemma3_text",
)  # fmt: skip
WINDOWS = np.random.default_rng(1).integers(3, 64, (8, 24)).astype(np.int32)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_every_matrix_of_attention_and_ffn_is_covered(architecture: str, tiny_model: TinyModels) -> None:
    folder = tiny_model(architecture)
    files = read_checkpoint(folder)
    known = matrices(architecture, files.shapes)

    facts = measure_activations(load_model(folder, Placement("cpu")), WINDOWS)

    modules = facts.rmt["modules"]
    # in memory the gate and up matrices of an expert are one
    expected = sum(
        files.shapes[name][0] if module.experts else 1
        for name, module in known.items()
        if not (module.expert is not None and module.role == "gate")
    )
    assert len(modules) == expected
    assert {row["family"] for row in modules.values()} == {"attn", "ffn"}
    assert all(row["tokens"] == WINDOWS.size for name, row in modules.items() if "[" not in name)
    blocks = {module.layer for module in known.values()}
    assert len({name.split(".mlp")[0] for name in facts.variance["modules"]}) >= len(blocks)
    assert all(row["rms"] > 0 for row in facts.variance["modules"].values())


def test_experts_are_measured_on_the_tokens_they_are_given(tiny_model: TinyModels) -> None:
    model = load_model(tiny_model("mixtral"), Placement("cpu"))

    modules = measure_activations(model, WINDOWS).rmt["modules"]

    for layer in (0, 1):
        given = [modules[f"model.layers.{layer}.mlp.experts.down_proj[{expert}]"]["tokens"] for expert in range(4)]
        # each token goes to two experts
        assert sum(given) == 2 * WINDOWS.size


def test_measuring_twice_gives_the_same_and_leaves_the_model_as_it_was(tiny_model: TinyModels) -> None:
    model = load_model(tiny_model("qwen2"), Placement("cpu"))
    before = score_windows(model, WINDOWS, 8)

    first, second = measure_activations(model, WINDOWS), measure_activations(model, WINDOWS)

    assert first == second
    assert score_windows(model, WINDOWS, 8) == before


def test_non_finite_activations_are_reported(tiny_model: TinyModels) -> None:
    model = load_model(tiny_model("llama"), Placement("cpu"))
    with torch.no_grad():
        cast(torch.nn.Linear, model.get_submodule("model.layers.1.mlp.down_proj")).weight[0, 0] = torch.nan

    facts = measure_activations(model, WINDOWS)

    broken = {name for name, row in facts.rmt["modules"].items() if row["nonfinite"]}
    assert broken == {"model.layers.1.mlp.down_proj"}
    assert facts.variance["modules"]["model.layers.1.mlp.down_proj"] == {"rms": None}


@pytest.mark.parametrize("architecture", ["mistral", "mixtral", "gpt2", "opt"])
def test_scales_act_as_scaled_weights_would_and_only_while_they_last(architecture: str, tiny_model: TinyModels) -> None:
    model = load_model(tiny_model(architecture), Placement("cpu"))
    name = next(iter(measure_activations(model, WINDOWS).variance["modules"]))
    before = score_windows(model, WINDOWS, 8)

    with scaled_outputs(model, {name: 1.1}):
        scaled = score_windows(model, WINDOWS, 8)
    module = model.get_submodule(name)
    with torch.no_grad():
        for parameter in ("down_proj", "weight", "bias"):
            if getattr(module, parameter, None) is not None:
                getattr(module, parameter).mul_(1.1)

    assert scaled.losses != before.losses
    assert scaled.losses == pytest.approx(score_windows(model, WINDOWS, 8).losses, rel=1e-5)


def test_activations_are_measured_without_the_logits_of_every_position(tiny_model: TinyModels) -> None:
    model = load_model(tiny_model("llama"), Placement("cpu"))
    shapes: list[tuple[int, ...]] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape)))

    measure_activations(model, TOKENS)

    assert {shape[1] for shape in shapes} == {1}
    assert sum(shape[0] for shape in shapes) == len(TOKENS)


class WithoutChoice(torch.nn.Module):
    """A model, some with code of its own, that always gives all of its logits."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(super().__getattr__("model"), name)

    def named_modules(self, *given: Any, **named: Any) -> Any:
        return self.model.named_modules(*given, **named)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
        return self.model(input_ids=input_ids, use_cache=use_cache)


def test_a_model_that_cannot_leave_out_logits_has_the_same_activations(tiny_model: TinyModels) -> None:
    model = load_model(tiny_model("llama"), Placement("cpu"))

    assert measure_activations(cast(Any, WithoutChoice(model)), TOKENS) == measure_activations(model, TOKENS)
