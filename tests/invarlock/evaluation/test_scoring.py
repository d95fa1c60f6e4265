import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from invarlock.errors import EvaluationError
from invarlock.evaluation import scoring
from invarlock.evaluation.models import Placement, load_model, load_stored_model
from invarlock.evaluation.output_heads import note_head, separate_head
from invarlock.evaluation.scoring import score_windows
from invarlock.problems import Code

CPU = Placement("cpu")
ARCHITECTURES = ["llama", "qwen2", "mixtral", "gpt2", "gpt_neox", "opt", "phi", "gemma2"]
TOKENS = np.random.default_rng(0).integers(3, 64, size=(7, 16)).astype(np.int32)


def reference(model: torch.nn.Module) -> list[float]:
    with torch.inference_mode():
        batches = [torch.from_numpy(row[None]).long() for row in TOKENS]
        return [model(input_ids=batch, labels=batch).loss.item() for batch in batches]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loss_is_the_models_own_mean_negative_log_likelihood(
    tiny_model: Callable[..., Path], architecture: str
) -> None:
    model = load_model(tiny_model(architecture), CPU)

    scores = score_windows(model, TOKENS, 3)

    assert scores.losses == pytest.approx(reference(model), rel=1e-5)


TINY: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
# What each does to its logits or hidden states, made large enough to be seen if it were left out.
SCALED: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 3.0},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {"final_logit_softcapping": 2.0},
    "nemotron": {},
    "olmo2": {},
    "phi3": {},
    "stablelm": {},
    "starcoder2": {},
    "qwen3": {},
    "glm4": {},
    "smollm3": {},
    "falcon": {},
    "bloom": {},
    "mamba": {},
}


# Two cap the logits of their head, and one reads the dtype of its weight. Scales that are powers of two, as above,
# change no digit whether they apply to logits or to hidden states.
NEED_THEIR_HEAD = {"gemma2", "gemma3_text", "mamba"}


@pytest.mark.parametrize("model_type", SCALED)
@pytest.mark.parametrize("noted", [False, True])
def test_soft_caps_scales_and_transforms_of_logits_are_the_models_own(model_type: str, noted: bool) -> None:
    sizes = {key: value for key, value in TINY.items() if (model_type, key) != ("falcon", "head_dim")}
    config = transformers.AutoConfig.for_model(model_type, **sizes, **SCALED[model_type])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    if noted:
        note_head(model)

    scores = score_windows(model, TOKENS, 3)

    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(TOKENS).long()).logits[:, :-1].double()
    targets = torch.from_numpy(TOKENS).long()[:, 1:]
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0].mean(dim=1)
    assert scores.losses == pytest.approx(expected.tolist(), rel=1e-6)
    assert (separate_head(model) is not None) == (noted and model_type not in NEED_THEIR_HEAD)


def test_a_head_apart_gives_the_same_losses_in_larger_passes_and_smaller_parts(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_model("llama"), CPU)
    apart = score_windows(model, TOKENS, 7)
    monkeypatch.setattr(scoring, "HEAD_LOGITS", 64 * 7 * 4)
    in_parts = score_windows(model, TOKENS, 7)
    head = model.get_output_embeddings()
    shapes: list[tuple[int, ...]] = []
    handle = head.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape)))
    score_windows(model, TOKENS, 7)
    handle.remove()

    assert isinstance(head, torch.nn.Linear)
    assert shapes == [(7, 4, 64), (7, 4, 64), (7, 4, 64), (7, 3, 64)]
    assert apart.losses == pytest.approx(reference(model), rel=1e-5)
    assert in_parts.losses == pytest.approx(apart.losses, rel=1e-6)
    # with 64 logits in a pass, a model that is run as a whole scores one window at a time
    monkeypatch.setattr(scoring, "CPU_PASS_LOGITS", 64)
    assert score_windows(model, TOKENS, 7).batch_size == 7


def test_a_model_has_its_head_again_after_a_pass_that_fails(tiny_model: Callable[..., Path]) -> None:
    model = load_model(tiny_model("gpt2"), CPU)
    beyond = np.random.default_rng(0).integers(3, 64, size=(2, 40)).astype(np.int32)
    head = model.get_output_embeddings()

    assert separate_head(model) is not None
    with pytest.raises(EvaluationError, match="forward pass fails"):
        score_windows(model, beyond, 2)

    assert model.get_output_embeddings() is head
    assert score_windows(model, TOKENS, 7).losses == pytest.approx(reference(model), rel=1e-5)


def test_a_forward_pass_that_fails_is_one_line(tiny_model: Callable[..., Path]) -> None:
    model = load_model(tiny_model("gpt2"), CPU)
    beyond = np.random.default_rng(0).integers(3, 64, size=(2, 40)).astype(np.int32)

    with pytest.raises(EvaluationError, match=r"^the model's forward pass fails \(IndexError: ") as raised:
        score_windows(model, beyond, 2)

    assert "\n" not in str(raised.value)
    assert raised.value.code is Code.MODEL_NOT_LOADABLE


@pytest.mark.parametrize("load", [load_model, load_stored_model])
def test_a_tensor_of_another_shape_than_the_config_gives_is_named(
    tiny_model: Callable[..., Path], tmp_path: Path, load: Callable[[Path, Placement], object]
) -> None:
    folder = shutil.copytree(tiny_model("llama"), tmp_path / "padded")
    name = "model.layers.0.mlp.gate_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    shape = list(tensors[name].shape)
    tensors[name] = torch.nn.functional.pad(tensors[name], (0, 64))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(EvaluationError) as raised:
        load(folder, CPU)

    assert raised.value.code is Code.MODEL_NOT_LOADABLE
    assert str(raised.value).endswith(f" such as {name}: {[shape[0], shape[1] + 64]} instead of {shape}")


@pytest.mark.parametrize("architecture", ["mixtral", "gemma2"])
def test_a_loss_does_not_depend_on_the_batch_or_on_the_chunks(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    model = load_model(tiny_model(architecture), CPU)
    alone = score_windows(model, TOKENS, 1).losses

    together = score_windows(model, TOKENS, 7).losses
    monkeypatch.setattr(scoring, "CACHED_LOGITS", 64 * 2)
    monkeypatch.setattr(scoring, "CPU_PASS_LOGITS", 64 * 16 * 4)
    chunked = score_windows(model, TOKENS, 7).losses

    assert together == pytest.approx(alone, rel=1e-5)
    assert chunked == pytest.approx(alone, rel=1e-5)


def test_losses_are_stored_with_the_digits_of_a_float32(tiny_model: Callable[..., Path]) -> None:
    losses = score_windows(load_model(tiny_model("llama"), CPU), TOKENS, 4).losses

    assert all(loss is not None and loss == float(f"{loss:.9g}") for loss in losses)


def test_a_loss_that_is_not_finite_is_none_and_the_others_stay(tiny_model: Callable[..., Path]) -> None:
    model = load_model(tiny_model("llama", tied=False), CPU)
    honest = score_windows(model, TOKENS, 7).losses
    absent = next(token for token in range(3, 64) if token not in TOKENS[0])
    with torch.no_grad():
        cast(torch.nn.Embedding, model.get_input_embeddings()).weight[absent] = math.nan

    losses = score_windows(model, TOKENS, 7).losses

    touched = [absent in row[:-1] for row in TOKENS]
    assert [loss is None for loss in losses] == touched
    assert any(touched)
    assert losses[0] == pytest.approx(honest[0], rel=1e-5)


class Starved(torch.nn.Module):
    """A model whose device has room for a few windows: it runs out of memory beyond, as CUDA does."""

    def __init__(self, model: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.model, self.room = model, room
        self.tried: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(super().__getattr__("model"), name)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
        self.tried.append(len(input_ids))
        if len(input_ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(input_ids=input_ids, use_cache=use_cache)


def test_a_batch_that_does_not_fit_is_halved_and_done_again(tiny_model: Callable[..., Path]) -> None:
    model = load_model(tiny_model("llama"), CPU)
    starved = Starved(model, room=2)

    scores = score_windows(cast(transformers.PreTrainedModel, starved), TOKENS, 7)

    assert scores.batch_size == 1 or scores.batch_size <= 2
    assert starved.tried[0] == 7
    assert scores.losses == pytest.approx(reference(model), rel=1e-5)


def test_a_window_that_does_not_fit_alone_is_an_error(tiny_model: Callable[..., Path]) -> None:
    starved = Starved(load_model(tiny_model("llama"), CPU), room=0)

    with pytest.raises(EvaluationError, match="one window of 16 tokens does not fit"):
        score_windows(cast(transformers.PreTrainedModel, starved), TOKENS, 4)


def test_a_checkpoint_that_lacks_tensors_is_not_measured_with_random_ones(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    source = tiny_model("llama")
    weights = load_file(source / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())

    with pytest.raises(EvaluationError, match=r"lacks 1 tensor of .*, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(tmp_path, CPU)


@pytest.mark.parametrize(("value", "loads"), [(0.0, True), (1e-6, False), (float("nan"), False)])
def test_a_tensor_that_the_model_does_not_use_is_named_unless_it_is_a_bias_of_zeros(
    tiny_model: Callable[..., Path], tmp_path: Path, value: float, loads: bool
) -> None:
    source = tiny_model("llama")
    weights = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.bias"
    weights[name] = torch.zeros(len(weights[name.replace("bias", "weight")]))
    weights[name][0] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())

    if loads:
        wanted = score_windows(load_model(source, CPU), TOKENS, 4)
        assert score_windows(load_model(tmp_path, CPU), TOKENS, 4).losses == wanted.losses
    else:
        with pytest.raises(EvaluationError, match=rf"does not use 1 tensor of the checkpoint, such as {name}"):
            load_model(tmp_path, CPU)


def test_a_model_that_cannot_have_flash_attention_is_refused(
    tiny_model: Callable[..., Path],
) -> None:
    folder = tiny_model("llama")

    with pytest.raises(EvaluationError, match=r"the model cannot be loaded .*FlashAttention2"):
        load_model(folder, Placement("cuda", attention="flash_attention_2"))


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_uses_the_requested_implementation(tiny_model: Callable[..., Path], name: str) -> None:
    folder = tiny_model("llama")

    placement = Placement("cpu", attention=name)

    assert Placement("cpu").attention == "eager"
    assert load_model(folder, placement).config._attn_implementation == name
    assert load_stored_model(folder, placement).config._attn_implementation == name


def test_a_forward_pass_on_a_cpu_has_no_more_windows_than_its_limit_of_logits(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a model with a soft cap cannot be run without its head
    model = load_model(tiny_model("gemma2"), CPU)
    monkeypatch.setattr(scoring, "CPU_PASS_LOGITS", 5 * 16 * model.config.vocab_size)

    assert score_windows(model, TOKENS, 16).batch_size == 5
    assert score_windows(model, TOKENS, 2).batch_size == 2
