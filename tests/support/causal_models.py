"""Small models of every architecture for which transformers has a causal language model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# Small values for the size fields of all model families.
SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "d_inner", "dff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "dim_ff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_k", "index_n_heads"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "index_head_dim", "image_size"), 16),
    **dict.fromkeys(("head_dim", "rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("ssm_state_size", "state_size", "mamba_d_state", "patch_size", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("projection_dim", "output_hidden_size", "out_hidden_size"), 32),
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "index_topk": 4,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
# Further fields that an architecture needs to make its sizes consistent.
OWN: Mapping[str, Mapping[str, Any]] = {
    "axk1": {"n_group": 1, "topk_group": 1},
    "blt": {"encoder_hash_byte_group_vocab": 16},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["full_attention", "sliding_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "inkling2_loop_text": {"unpadded_vocab_size": 64},
    "inkling2_text": {"unpadded_vocab_size": 64},
    "inkling_text": {"unpadded_vocab_size": 64},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 2, "expert_ffn_hidden_size": 24, "head_dim": 8, "moe_topk": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "reformer": {"is_decoder": True, "axial_pos_shape": (8, 8), "axial_pos_embds_dim": (16, 16)},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layer_types": ["mamba", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 4},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 4},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip

# Why a model of a type is not built.
CANNOT: Mapping[str, str] = {
    "blt": "the sizes of its byte encoder, patches and decoder follow from each other, and are not small",
    "dots3_note": "its config is written for 46 blocks; dots3_note_text is its language model",
    "emu3": "its language model alone is saved as emu3_text_model, which no causal model is registered for",
    "gemma3n": "its image tower needs timm and Pillow; gemma3n_text is its language model",
    "gemma4_assistant": "a draft model: it reads the states of the model that it assists, not text alone",
    "gemma4_unified_assistant": "a draft model: it reads the states of the model that it assists, not text alone",
    "mllama": "its language model alone is saved as mllama_text_model, which no causal model is registered for",
    "musicgen": "its tokens are codes of sound; the causal model cannot be built of its whole config",
    "musicgen_melody": "its tokens are codes of sound; the causal model cannot be built of its whole config",
}
BUILT = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(CANNOT))


def tiny_config(model_type: str, **more: Any) -> PreTrainedConfig:
    """Return the configuration of a small model of a type."""
    return _config(CONFIG_MAPPING[model_type], {**OWN.get(model_type, {}), **more})


def tiny_causal_model(model_type: str, **options: Any) -> PreTrainedModel:
    """Return a small causal language model of a type, with random weights."""
    of_config: Any = AutoModelForCausalLM.from_config  # transformers gives it no type
    model: PreTrainedModel = of_config(tiny_config(model_type), **options)
    return model


def tiny_multimodal_model(model_type: str, **options: Any) -> PreTrainedModel:
    """Return a small image-text model of a type, with random weights."""
    of_config: Any = AutoModelForImageTextToText.from_config  # as above
    model: PreTrainedModel = of_config(tiny_config(model_type), **options)
    return model


def _config(kind: Any, more: Mapping[str, Any]) -> PreTrainedConfig:
    known = {*getattr(kind, "__dataclass_fields__", ()), *inspect.signature(kind.__init__).parameters}
    sizes = {name: size for name, size in SIZES.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention: each head has its own keys
        sizes["num_key_value_heads"] = sizes.get("num_attention_heads", 4)
        sizes.pop("head_dim", None)
    for name, inner in getattr(kind, "sub_configs", {}).items():
        given = getattr(kind, "sub_configs_defaults", {}).get(name)
        inner = CONFIG_MAPPING[given.model_type] if inner is AutoConfig and given is not None else inner
        if name in known and hasattr(inner, "__dataclass_fields__"):
            sizes[name] = _config(inner, {})
    made: PreTrainedConfig = kind(**{**sizes, **more})
    return made
