"""Small random models from which kept checkpoints were made, for formats that no embedded model is suitable for.

NumPy draws their weights from a fixed seed in the order of their names, so that they are the same on every machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

EMBEDDED_TOKENIZER = Path(__file__).parents[2] / "suites" / "embedded" / "tokenizer"
_SHARED: Mapping[str, Any] = {
    "dtype": "bfloat16", "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    # llama.cpp's k-quants need rows of 256 weights
    "llama-256": {
        **_SHARED, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
        "intermediate_size": 256, "num_hidden_layers": 1, "head_dim": 32, "rope_parameters": _LLAMA3,
    },
    "qwen3-64": {
        **_SHARED, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "gemma3-64": {
        **_SHARED, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "head_dim": 32,
        "sliding_window": 32, "query_pre_attn_scalar": 32, "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        },
    },
}  # fmt: skip


def write_small_baseline(name: str, folder: Path) -> Path:
    """Write a small random model with the embedded tokenizer and return the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name], indent=1))
    with torch.device("meta"):
        of_config: Any = AutoModelForCausalLM.from_config  # transformers gives it no type
        model = of_config(AutoConfig.from_pretrained(folder))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key != "lm_head.weight"}
    generator = np.random.Generator(np.random.PCG64(0))
    tensors = {}
    for key in sorted(shapes):
        numbers = torch.from_numpy(generator.normal(0, 0.05, shapes[key]).astype(np.float32))
        # norm weights are around 1, or around 0 in models that add 1 to them
        shift = 1.0 if key.endswith("norm.weight") and not name.startswith("gemma") else 0.0
        tensors[key] = (numbers + shift).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for source in EMBEDDED_TOKENIZER.iterdir():
        shutil.copyfile(source, folder / source.name)
    return folder
