"""Small models of the architectures supported in GGUF files, with the same weights on every machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from causal_models import tiny_config
from transformers import AutoModelForCausalLM, PreTrainedModel

# Further fields that a model type needs. Multipliers differ from 1, so that tests notice if they are not compared.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "arcee": {},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "rotary_pct": 1.0},
    "ernie4_5": {},
    "exaone4": {},
    "glm4": {},
    "granite": {
        "attention_multiplier": 0.125, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "nemotron": {},
    "olmo": {"clip_qkv": 8.0},
    "olmo2": {},
    "olmoe": {},
    # the converter assumes an FFN of four times the hidden size, and separate keys for each head
    "phi": {"intermediate_size": 128, "num_key_value_heads": 4},
    "phi3": {},
    "seed_oss": {},
    "smollm3": {},
    "starcoder2": {},
}  # fmt: skip


def small_model(model_type: str) -> PreTrainedModel:
    """Return a model whose weights are multiples of 1/64 from -1/8 to 7/64; norms and biases are 1 larger."""
    of_config: Any = AutoModelForCausalLM.from_config  # transformers gives it no type
    model: PreTrainedModel = of_config(tiny_config(model_type, **MODELS[model_type]), dtype=torch.float32)
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            codes = draw.integers(-8, 8, size=tuple(weight.shape))
            weight.copy_(torch.from_numpy(codes / 64 + (weight.ndim == 1)))
    return model


def write_small_model(model_type: str, folder: Path, **fields: Any) -> Path:
    """Save a small model of a type with some fields of its config changed, and return its folder."""
    small_model(model_type).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # transformers drops config fields that its class does not define, but published configs contain them
    if "partial_rotary_factor" in fields:
        config["rope_parameters"]["partial_rotary_factor"] = fields.pop("partial_rotary_factor")
    (folder / "config.json").write_text(json.dumps({**config, **MODELS[model_type], **fields}))
    return folder
