"""Classifies modules by the words in their names, for architectures without a table.

Example::

    by_name("model.layers.3.mixer.in_proj".split("."), (512, 128), is_parameter=False)     # ("attn", "")
    by_name("model.vision_tower.blocks.0.fc1".split("."), (64, 32), is_parameter=False)    # ("other", "")

Authors of models name modules after their function, with few different words. Source: the parameters of all causal
language models of transformers 5. A test compares the result for every architecture with the modules of its model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from invarlock.checkpoints.architectures import Family, Role

_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("q_proj", "query", "q", "q_lin", "Wq", "query_proj", "project_q", "receptance"), "q"),
    **dict.fromkeys(("k_proj", "key", "k", "k_lin", "Wk", "key_proj", "project_k"), "k"),
    **dict.fromkeys(("v_proj", "value", "v", "v_lin", "Wv", "value_proj", "project_v"), "v"),
    **dict.fromkeys(("qkv_proj", "query_key_value", "c_attn", "qkv", "Wqkv", "in_proj_qkv", "in_proj_qkvz"), "qkv"),
    **dict.fromkeys(("o_proj", "out_proj", "o", "out_lin", "Wo", "attention_out", "linear_out", "o_b_proj"), "o"),
}  # fmt: skip
_FFN_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("gate_proj", "w1", "w_0", "proj_up_gate"), "gate"),
    **dict.fromkeys(
        ("up_proj", "w3", "w_1", "fc1", "fc_in", "c_fc", "dense_h_to_4h", "proj_up", "lin1", "layer_1", "intermediate",
         "key"),
        "up",
    ),
    **dict.fromkeys(("gate_up_proj", "Wi", "input_linear"), "gate_up"),
    **dict.fromkeys(
        ("down_proj", "w2", "w_out", "fc2", "fc_out", "dense_4h_to_h", "proj_down", "lin2", "layer_2", "output_linear",
         "value"),
        "down",
    ),
}  # fmt: skip
# These words name the output of attention in some models and of the FFN in others.
_OUTPUTS = frozenset({"c_proj", "dense", "output", "Wo", "proj"})
_TOKENS = frozenset({
    "embed_tokens", "wte", "word_embeddings", "word_embedding", "embed_in", "tok_embeddings", "embeddings",
    "tokens_embed", "input_embedding", "embed", "w",
})  # fmt: skip
_HEADS = frozenset({
    "lm_head", "embed_out", "output", "head", "proj_out", "pred_layer", "lm_loss", "output_projection", "predictions",
    "generator_lm_head", "unembed",
})  # fmt: skip
_POSITIONS = re.compile(r"position|^wpe$|token_type|segment")
_OTHER_SENSES = re.compile(r"vision|visual|audio|image|^img_|speech|video|multi_?modal|^mm_|_extend$")
_NORM = re.compile(r"norm|(^|_)ln(_|[0-9]|$)", re.IGNORECASE)
_ROUTER = re.compile(r"^(gate|wg|shared_expert_gate)$")
_ATTENTION = re.compile(r"attn|attention|^self_att$", re.IGNORECASE)
_MIXER = re.compile(r"mixer|mamba|^conv$|conv1d|temporal|recurrent|lstm|ssm")
_FFN = re.compile(r"mlp|ffn|feed_forward|^ff$|expert|moe")
# Roles of matrices that may be stored as a stack of experts.
STACKED: tuple[Role, ...] = ("gate", "up", "gate_up", "down")
_NUMBER = re.compile(r"[0-9]{1,6}")
# Lists of modules that are not blocks.
_NOT_BLOCKS = frozenset({"lm_heads", "embed_tokens", "weights", "embed_modality_tokens", "ngram_embeddings"})


def by_name(segments: Sequence[str], shape: Sequence[int], *, is_parameter: bool) -> tuple[Family, Role]:
    """Return family and role of a module by its name and the shape of its tensor.

    A module for images or sound is ``other``, since scored text does not use it. So is a parameter that no layer
    multiplies with, such as a table of decay rates. In a block, modules that mix positions are ``attn`` (attention,
    recurrent layers and convolutions), and all others are ``ffn``.

    Args:
        segments: the parts of the module's name between dots.
        shape: the shape of the tensor.
        is_parameter: whether the tensor is a parameter of its own, not the ``weight`` or ``bias`` of a module.
    """
    parts = [part for part in segments if not _NUMBER.fullmatch(part)]
    if not parts or any(_OTHER_SENSES.search(part) for part in parts):
        return "other", ""
    if _NORM.search(parts[-1]) and len(shape) < 2:
        return "norm", ""
    block = next((at for at in range(1, len(segments)) if _is_block(segments, at)), None)
    if block is None:
        return _outside(parts, shape, is_parameter)
    # the name of the list is included: XLM has attentions.0 and ffns.0
    inner = [part for part in segments[block - 1 :] if not _NUMBER.fullmatch(part)]
    return _inside(inner, shape, is_parameter)


def _is_block(segments: Sequence[str], at: int) -> bool:
    return _NUMBER.fullmatch(segments[at]) is not None and segments[at - 1] not in _NOT_BLOCKS


def _outside(parts: Sequence[str], shape: Sequence[int], is_parameter: bool) -> tuple[Family, Role]:
    if is_parameter:
        return "other", ""
    last = parts[-1]
    if last == "decoder" and len(parts) > 1:
        last = parts[-2]  # lm_head.decoder, cls.predictions.decoder
    if last in _HEADS:
        return "embed", "head"
    if any(_POSITIONS.search(part) for part in parts[-2:]):
        return "embed", "positions"
    return "embed", "tokens" if last in _TOKENS else "projection"


def _inside(parts: Sequence[str], shape: Sequence[int], is_parameter: bool) -> tuple[Family, Role]:
    last = parts[-1]
    if last == "linear" and len(parts) > 1:
        last = parts[-2]  # a wrapper around the matrix that clips or adds a short convolution
    in_attention = any(_ATTENTION.search(part) and not _NORM.search(part) for part in parts)
    if "router" in parts or (not in_attention and any(_ROUTER.search(part) for part in parts)):
        return "router", ""
    family: Family
    if in_attention:
        family = "attn"
    elif (last in _FFN_ROLES and last not in _ROLES) or any(_FFN.search(part) for part in parts):
        family = "ffn"
    else:
        family = "attn" if any(_MIXER.search(part) for part in parts) or last in _ROLES else "ffn"
    role = _role(parts, last, family)
    is_stack = len(shape) == 3 and role in STACKED
    return ("other", "") if is_parameter and not is_stack else (family, role)


def _role(parts: Sequence[str], last: str, family: Family) -> Role:
    if any("conv" in part for part in parts[-2:]):
        return ""
    if last in _OUTPUTS and (family == "ffn" or last not in _ROLES):
        if last == "dense" and parts[-2] in ("intermediate", "dense"):
            return "up"
        return "o" if family == "attn" else "down"
    return _ROLES.get(last, "") if family == "attn" else _FFN_ROLES.get(last, "")
