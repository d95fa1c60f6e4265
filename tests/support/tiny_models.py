"""Configurations of small models, one of each architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
HEADED: dict[str, Any] = {**GROUPED, "head_dim": 8}
MIXTURE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **more: transformers.LlamaConfig(**GROUPED, **more),
    "mistral": lambda **more: transformers.MistralConfig(**GROUPED, **more),
    "qwen2": lambda **more: transformers.Qwen2Config(**GROUPED, **more),
    "qwen3": lambda **more: transformers.Qwen3Config(**HEADED, **more),
    "mixtral": lambda **more: transformers.MixtralConfig(**GROUPED, num_local_experts=4, **more),
    "qwen2_moe": lambda **more: transformers.Qwen2MoeConfig(
        **GROUPED, **MIXTURE, shared_expert_intermediate_size=24, **more
    ),
    "qwen3_moe": lambda **more: transformers.Qwen3MoeConfig(**HEADED, **MIXTURE, mlp_only_layers=[0], **more),
    "gpt2": lambda **more: transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=1, **more
    ),
    "gpt_neox": lambda **more: transformers.GPTNeoXConfig(**SIZES, **more),
    "opt": lambda **more: transformers.OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=16,
        max_position_embeddings=32, **more
    ),
    "phi": lambda **more: transformers.PhiConfig(**SIZES, **more),
    "gemma": lambda **more: transformers.GemmaConfig(**HEADED, **more),
    "gemma2": lambda **more: transformers.Gemma2Config(**HEADED, **more),
    "gemma3_text": lambda **more: transformers.Gemma3TextConfig(**HEADED, **more),
    "bert": lambda **more: transformers.BertConfig(**SIZES, max_position_embeddings=32, **more),
}  # fmt: skip
