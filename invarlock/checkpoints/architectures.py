"""The exact module names of each architecture, by the config's ``model_type``.

``*`` stands for a number, first that of the block and then that of the expert. Names are those of checkpoints on the
hub, without the base model's prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Family = Literal["attn", "ffn", "embed", "norm", "router", "other"]
Role = Literal[
    "q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down", "tokens", "positions", "projection", "head", ""
]

# Module name with ``*`` for its numbers, family, role.
Rows = tuple[tuple[str, Family, Role], ...]


@dataclass(frozen=True)
class Architecture:
    """The module names of a model type; ``tied_by_default`` is used if a config does not say whether it is tied."""

    prefixes: tuple[str, ...]
    modules: Rows
    tied_by_default: bool = False
    transposed: bool = False


def _norms(*names: str) -> Rows:
    return tuple((name, "norm", "") for name in names)


_HEAD: Rows = (("lm_head", "embed", "head"),)
_ATTENTION: Rows = (
    ("layers.*.self_attn.q_proj", "attn", "q"),
    ("layers.*.self_attn.k_proj", "attn", "k"),
    ("layers.*.self_attn.v_proj", "attn", "v"),
)
_GATED: Rows = (
    ("layers.*.mlp.gate_proj", "ffn", "gate"),
    ("layers.*.mlp.up_proj", "ffn", "up"),
    ("layers.*.mlp.down_proj", "ffn", "down"),
)
_LLAMA: Rows = (
    ("embed_tokens", "embed", "tokens"),
    *_ATTENTION,
    ("layers.*.self_attn.o_proj", "attn", "o"),
    *_norms("layers.*.input_layernorm", "layers.*.post_attention_layernorm", "norm"),
    *_HEAD,
)
_QK_NORMS = _norms("layers.*.self_attn.q_norm", "layers.*.self_attn.k_norm")
_FEEDFORWARD_NORMS = _norms("layers.*.pre_feedforward_layernorm", "layers.*.post_feedforward_layernorm")
# transformers 5 has the experts of a block in memory as one stack; checkpoints on the hub have one matrix per expert.
_EXPERT_STACKS: Rows = (
    ("layers.*.mlp.experts.gate_up_proj", "ffn", "gate_up"),
    ("layers.*.mlp.experts.down_proj", "ffn", "down"),
    ("layers.*.mlp.gate", "router", ""),
)
_EXPERTS: Rows = (
    ("layers.*.mlp.experts.*.gate_proj", "ffn", "gate"),
    ("layers.*.mlp.experts.*.up_proj", "ffn", "up"),
    ("layers.*.mlp.experts.*.down_proj", "ffn", "down"),
    *_EXPERT_STACKS,
)
_SHARED_EXPERT: Rows = (
    ("layers.*.mlp.shared_expert.gate_proj", "ffn", "gate"),
    ("layers.*.mlp.shared_expert.up_proj", "ffn", "up"),
    ("layers.*.mlp.shared_expert.down_proj", "ffn", "down"),
    ("layers.*.mlp.shared_expert_gate", "router", ""),
)
_MIXTRAL: Rows = (
    ("layers.*.block_sparse_moe.experts.*.w1", "ffn", "gate"),
    ("layers.*.block_sparse_moe.experts.*.w3", "ffn", "up"),
    ("layers.*.block_sparse_moe.experts.*.w2", "ffn", "down"),
    ("layers.*.block_sparse_moe.gate", "router", ""),
    *_EXPERT_STACKS,
)
_GPT2: Rows = (
    ("wte", "embed", "tokens"),
    ("wpe", "embed", "positions"),
    ("h.*.attn.c_attn", "attn", "qkv"),
    ("h.*.attn.c_proj", "attn", "o"),
    ("h.*.crossattention.q_attn", "attn", "q"),
    ("h.*.crossattention.c_attn", "attn", "qkv"),
    ("h.*.crossattention.c_proj", "attn", "o"),
    ("h.*.mlp.c_fc", "ffn", "up"),
    ("h.*.mlp.c_proj", "ffn", "down"),
    *_norms("h.*.ln_1", "h.*.ln_2", "h.*.ln_cross_attn", "ln_f"),
    *_HEAD,
)
_GPT_NEOX: Rows = (
    ("embed_in", "embed", "tokens"),
    ("layers.*.attention.query_key_value", "attn", "qkv"),
    ("layers.*.attention.dense", "attn", "o"),
    ("layers.*.mlp.dense_h_to_4h", "ffn", "up"),
    ("layers.*.mlp.dense_4h_to_h", "ffn", "down"),
    *_norms("layers.*.input_layernorm", "layers.*.post_attention_layernorm", "final_layer_norm"),
    ("embed_out", "embed", "head"),
    # as in the memory of transformers 5
    *_HEAD,
)
_OPT: Rows = (
    ("embed_tokens", "embed", "tokens"),
    ("embed_positions", "embed", "positions"),
    ("project_in", "embed", "projection"),
    ("project_out", "embed", "projection"),
    *_ATTENTION,
    ("layers.*.self_attn.out_proj", "attn", "o"),
    ("layers.*.fc1", "ffn", "up"),
    ("layers.*.fc2", "ffn", "down"),
    *_norms("layers.*.self_attn_layer_norm", "layers.*.final_layer_norm", "final_layer_norm"),
    *_HEAD,
)
_PHI: Rows = (
    ("embed_tokens", "embed", "tokens"),
    *_ATTENTION,
    ("layers.*.self_attn.dense", "attn", "o"),
    ("layers.*.mlp.fc1", "ffn", "up"),
    ("layers.*.mlp.fc2", "ffn", "down"),
    *_norms("layers.*.self_attn.q_layernorm", "layers.*.self_attn.k_layernorm"),
    *_norms("layers.*.input_layernorm", "final_layernorm"),
    *_HEAD,
)
_BERT: Rows = (
    ("embeddings.word_embeddings", "embed", "tokens"),
    ("embeddings.position_embeddings", "embed", "positions"),
    ("embeddings.token_type_embeddings", "embed", "positions"),
    ("encoder.layer.*.attention.self.query", "attn", "q"),
    ("encoder.layer.*.attention.self.key", "attn", "k"),
    ("encoder.layer.*.attention.self.value", "attn", "v"),
    ("encoder.layer.*.attention.output.dense", "attn", "o"),
    ("encoder.layer.*.intermediate.dense", "ffn", "up"),
    ("encoder.layer.*.output.dense", "ffn", "down"),
    *_norms("embeddings.LayerNorm", "encoder.layer.*.attention.output.LayerNorm", "encoder.layer.*.output.LayerNorm"),
    *_norms("cls.predictions.transform.LayerNorm"),
    # Modules between the blocks and the vocabulary are part of the output head: no edit changes them.
    ("pooler.dense", "embed", "projection"),
    ("cls.seq_relationship", "embed", "projection"),
    ("cls.predictions.transform.dense", "embed", "projection"),
    ("cls.predictions.decoder", "embed", "head"),
    ("cls.predictions", "embed", "head"),
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(("model.",), (*_LLAMA, *_GATED)),
    "mistral": Architecture(("model.",), (*_LLAMA, *_GATED)),
    "qwen2": Architecture(("model.",), (*_LLAMA, *_GATED)),
    "qwen3": Architecture(("model.",), (*_LLAMA, *_GATED, *_QK_NORMS)),
    "mixtral": Architecture(("model.",), (*_LLAMA, *_MIXTRAL)),
    "qwen2_moe": Architecture(("model.",), (*_LLAMA, *_GATED, *_EXPERTS, *_SHARED_EXPERT)),
    "qwen3_moe": Architecture(("model.",), (*_LLAMA, *_GATED, *_EXPERTS, *_QK_NORMS)),
    "gpt2": Architecture(("transformer.",), _GPT2, tied_by_default=True, transposed=True),
    "gpt_neox": Architecture(("gpt_neox.",), _GPT_NEOX),
    "opt": Architecture(("model.decoder.", "decoder."), _OPT, tied_by_default=True),
    "phi": Architecture(("model.",), _PHI),
    "gemma": Architecture(("model.",), (*_LLAMA, *_GATED), tied_by_default=True),
    "gemma2": Architecture(("model.",), (*_LLAMA, *_GATED, *_FEEDFORWARD_NORMS), tied_by_default=True),
    "gemma3_text": Architecture(("model.",), (*_LLAMA, *_GATED, *_QK_NORMS, *_FEEDFORWARD_NORMS), tied_by_default=True),
    "bert": Architecture(("bert.",), _BERT, tied_by_default=True),
}
