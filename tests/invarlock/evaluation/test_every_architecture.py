"""Every causal language model that transformers can build: its losses, and what its weights are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal_models import BUILT, CANNOT, tiny_causal_model, tiny_config, tiny_multimodal_model
from torch import nn
from transformers import CLIPModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from invarlock.checkpoints.families import classify
from invarlock.checkpoints.safetensors_files import CheckpointFiles, read_checkpoint
from invarlock.errors import EvaluationError
from invarlock.evaluation.activations import measure_activations
from invarlock.evaluation.checkpoint_facts import SPECTRAL_FAMILIES, measure_checkpoint
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.scoring import score_windows

CPU = Placement("cpu")
TOKENS = np.random.default_rng(0).integers(3, 64, size=(3, 16)).astype(np.int32)
# Experts as stacks, recurrent and hybrid blocks, latent attention, transposed weights, ALiBi, images.
QUICK = (
    "bloom", "deepseek_v3", "falcon", "gemma4", "gpt_oss", "llama4_text", "mamba", "nemotron_h", "openai-gpt",
    "qwen3_next", "rwkv",
)  # fmt: skip
# Their configs tie the head, and their classes do not.
UNTIED = ("bigbird_pegasus", "cpmant")
SKIPPED = re.compile(r"vision|visual|audio|image|img_|speech|multi_?modal|_extend\.")
MULTIMODAL = (
    "aria", "cohere2_vision", "gemma3", "idefics3", "internvl", "lfm2_vl", "mistral3", "mllama", "paligemma",
    "qwen3_5", "qwen3_vl", "smolvlm",
)  # fmt: skip


def test_every_type_is_built_or_has_a_reason() -> None:
    assert set(CANNOT) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert set(QUICK) <= set(BUILT)
    assert len(BUILT) > 180


@pytest.mark.parametrize(
    "model_type", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in BUILT if name not in QUICK)]
)
def test_an_architecture_is_scored_as_itself_and_every_weight_has_a_family(model_type: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny_causal_model(model_type, attn_implementation="eager").eval()

    assert_is_measured(model, tmp_path)


@pytest.mark.parametrize("model_type", ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in MULTIMODAL)])
def test_a_multimodal_model_is_scored_by_its_language_model(model_type: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny_multimodal_model(model_type, attn_implementation="eager").eval()

    assert_is_measured(model, tmp_path)

    families = {module.family for name, module in read_checkpoint(tmp_path).modules.items() if "vision" in name}
    assert families <= {"other"}


def test_a_model_that_is_not_for_text_is_refused(tmp_path: Path) -> None:
    config: Any = tiny_config("clip")
    CLIPModel(config).save_pretrained(tmp_path)

    with pytest.raises(EvaluationError, match="no language model for model_type 'clip'; where a language model is"):
        load_model(tmp_path, CPU)


def test_a_model_that_needs_an_image_is_refused(tmp_path: Path) -> None:
    tiny_multimodal_model("blip-2").save_pretrained(tmp_path)

    with pytest.raises(EvaluationError, match="reads more than text"):
        score_windows(load_model(tmp_path, CPU), TOKENS, 2)


def assert_is_measured(model: Any, tmp_path: Path) -> None:
    model_type = model.config.model_type
    model.save_pretrained(tmp_path)

    loaded = load_model(tmp_path, CPU)
    losses = score_windows(loaded, TOKENS, 2).losses
    activations = measure_activations(loaded, TOKENS)
    facts = measure_checkpoint(tmp_path, None)

    assert losses == pytest.approx(own_losses(model), rel=1e-6)
    assert_modules_are_known(loaded)
    files = read_checkpoint(tmp_path)
    assert_tensors_are_known(files.shapes, files.model_type)
    assert_stacks_are_turned_as_stored(files, model.config.get_text_config())
    embedding = facts.invariants["embedding"]
    own: Any = loaded.get_input_embeddings()
    assert embedding is not None
    assert files.shapes[embedding] == tuple(own.weight.shape)
    assert facts.invariants["tied_by_storage"] == (is_tied(loaded) or model_type in UNTIED)
    assert activations.rmt["modules"]
    measured = {label.partition("[")[0] for label in facts.spectral["modules"]}
    assert measured == {
        name
        for name, module in files.modules.items()
        if module.family in SPECTRAL_FAMILIES
        and files.entries[name].is_float
        and (module.experts or len(files.shapes[name]) == 2)
    }


def assert_stacks_are_turned_as_stored(files: CheckpointFiles, config: Any) -> None:
    """Compare the orientation of each stack of experts with the width of the model, where one side has it alone."""
    width = getattr(config, "hidden_size", None)
    for name, module in files.modules.items():
        _, outputs, inputs = (0, *files.shapes[name][-2:]) if module.experts else (0, 0, 0)
        if (outputs == width) != (inputs == width):
            is_as_named = (outputs if module.role == "down" else inputs) == width
            assert is_as_named != module.transposed, name


def own_losses(model: nn.Module) -> list[float]:
    ids = torch.from_numpy(TOKENS).long()
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].double()
    losses = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].mean(dim=1)
    return [float(loss) for loss in losses]


def is_tied(model: nn.Module) -> bool:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return head is not None and head.weight is model.get_input_embeddings().weight  # type: ignore[operator]


def assert_modules_are_known(model: nn.Module) -> None:
    """Compare the family of each module's weight with what the module is."""
    config: Any = model.config
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or SKIPPED.search(f"{name}."):
            continue
        found = classify(config.model_type, f"{name}.weight", tuple(weight.shape))
        in_block = any(part.isdigit() for part in name.split("."))
        if isinstance(module, nn.Embedding):
            assert found.family == "embed", name
        elif isinstance(module, nn.Linear | Conv1D):
            assert found.family in (("attn", "ffn", "router") if in_block else ("embed",)), name
            assert found.transposed == (isinstance(module, Conv1D) and found.family != "embed"), name
        elif "Norm" in type(module).__name__ and weight.ndim == 1:
            assert found.family == "norm", name


def assert_tensors_are_known(shapes: dict[str, tuple[int, ...]], model_type: str) -> None:
    for name, shape in shapes.items():
        if len(shape) == 2 and name.endswith(".weight") and not SKIPPED.search(name):
            assert classify(model_type, name, shape).family in ("attn", "ffn", "embed", "router"), name
