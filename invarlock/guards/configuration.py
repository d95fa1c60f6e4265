"""The configuration check of the invariants guard: fields of a subject's files that change the computation.

A field that changes the computation on the scored text fails; a field that can change only generated text, texts longer
than the scored windows, or has an unknown effect, warns. ``invarlock.evaluation.configuration_facts`` reads both
sides, and omits fields that only concern storage or training.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

Facts = Mapping[str, Any]
Violation = dict[str, str]

CONFIG, GENERATION, TOKENIZER, TEMPLATE = "config.json", "generation_config.json", "tokenizer", "chat template"

# Only the last part of a field's name is matched; for rotary positions, all parts are searched.
_ROTARY = re.compile(r"(^|\.)(rope|rotary|partial_rotary)")
_COMPUTES = re.compile(
    r"""
    .*(eps|epsilon)                                       # of norms
    | .*softcap(ping)? | clip_qkv | .*clamp.*
    | .*act(ivation)?(_fn|_func|_function|_type)? | mlp_type | ffn_act_type
    | .*(multiplier|scaling|_scalar|_scale|scale_attn.*|scale_qk.*|temperature_tuning|scale_emb|scale_depth)
    | routed_scaling_factor | attn_scale | floor_scale | dim_model_base
    | (num_)?(attention_|key_value_|kv_)?heads | num_attention_heads | num_key_value_heads | n_heads? | multi_query
    | head_dim | (qk|v)_.*head_dim | .*_lora_rank | hidden_size | n_embd | d_model | n_inner | .*intermediate_size
    | ffn_hidden_size | .*ffn_dim | num_hidden_layers | n_layers? | model_type
    | .*bias | use_qk_norm | qk_norm | qk_layernorm | .*_norm_type | norm(alization)?_type | attn_output_gate
    | alibi | use_alibi | parallel_attn | use_parallel_residual | new_decoder_architecture | do_layer_norm_before
    | apply_residual_connection_post_layernorm | position_embedding_type | no_rope_.*
    | num_experts_per_tok | num_local_experts | num_experts | n_routed_experts | n_shared_experts | top_k_experts
    | norm_topk_prob | n_group | topk_group | topk_method | scoring_func | use_expert_bias | moe_top_?k
    | first_k_dense_replace | decoder_sparse_step | mlp_only_layers | (moe|interleave)_.*(step|freq|layers)
    | conv_.* | state_size | ssm_.* | time_step_.* | chunk_size
    """,
    re.VERBOSE,
)
SEEN_OF_LISTS = 80
# Fields of the attention range, which have no effect on shorter windows.
_REACH = frozenset({"sliding_window", "attention_chunk_size", "window_size", "local_attention"})
_LAYERS = frozenset({"layer_types", "sliding_window_pattern", "attention_layers"})
_REACH_ONLY = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
# Fields of the longest text. Some kinds of rotary positions, listed next, compute with it.
_POSITIONS = frozenset({"max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"})
_POSITIONAL_ROPES = frozenset({"dynamic", "yarn", "longrope", "su"})
_GENERATES = frozenset({"bos_token_id", "eos_token_id", "decoder_start_token_id", "architectures"})
# Inputs such as images and sound are not scored.
_OTHER_INPUTS = re.compile(r"(^|\.)(vision|audio|image|speech|video|talker|code2wav|mm|visual)[a-z_0-9]*(config)?\.")


def configuration_violations(
    baseline: Facts,
    subject: Facts,
    seq_len: int | None,
    *,
    layers: int | None = None,
    excused: frozenset[str] = frozenset(),
) -> Iterator[Violation]:
    """Yield each field of the configuration that differs, with both values.

    Args:
        baseline: the baseline's facts, as for ``derive_invariants``.
        subject: the subject's facts.
        seq_len: tokens per scored window; None if not known.
        layers: the declared number of layers of the subject; lists with one entry per layer end there.
        excused: the last parts of the names of fields that are declared to change.
    """
    own, base = subject["configuration"], baseline["configuration"]
    after, before = _one_spelling(own["config"]), _one_spelling(base["config"])
    for name in _differing(after, before):
        if name.removeprefix("text_config.") in excused:
            continue
        if layers is not None and _is_cut(name, after.get(name), before.get(name), layers):
            continue
        yield _config_violation(name, {**after, **own["config"]}, {**before, **base["config"]}, seq_len)
    if None not in (own["generation"], base["generation"]):
        before, after = _with_ids(base), _with_ids(own)
        for name in _differing(after, before):
            if _alike(own["generation"].get(name), base["generation"].get(name)):
                continue  # both sides take it from config.json, where it is reported
            reason = f"{_values(name, after, before)}; it is used to generate text"
            yield _violation(GENERATION, "generation", reason, "warn")
    yield from _tokenizer_violations(baseline, subject)
    if own["chat_template"] != base["chat_template"]:
        words = [_template_words(side["chat_template"]) for side in (own, base)]
        reason = f"{words[0]}, in the baseline {words[1]}; chats are given to the model in another form"
        yield _violation(TEMPLATE, "chat_template", reason, "warn")


def _one_spelling(config: Facts) -> Facts:
    """Return a config without other spellings of the same rotary positions.

    ``type`` is the older name of ``rope_type``, and transformers writes both. Positions of the type ``default`` have no
    factor, and those of the type ``linear`` with the factor 1 are the default ones.
    """
    found = dict(config)
    for name in config:
        table, _, last = name.rpartition(".")
        if last not in ("type", "rope_type") or not _ROTARY.search(name):
            continue
        prefix = f"{table}." if table else ""
        kind = config.get(f"{prefix}rope_type", config.get(f"{prefix}type"))
        if found.get(f"{prefix}type") == kind:
            del found[f"{prefix}type"]
        found[f"{prefix}rope_type"] = kind
        if kind == "default" or (kind == "linear" and config.get(f"{prefix}factor") == 1):
            del found[f"{prefix}rope_type"]
            found.pop(f"{prefix}factor", None)
    return found


def _is_cut(name: str, own: object, base: object, layers: int) -> bool:
    """Return whether a field has one entry per layer and the subject's list is the start of the baseline's."""
    if not isinstance(own, str) or not isinstance(base, str):
        return False
    try:
        mine, theirs = json.loads(own), json.loads(base)
    except ValueError:
        # facts have only the start of a long list; transformers ensures that its length is the number of layers
        return name.rsplit(".", 1)[-1] in _LAYERS and own[:SEEN_OF_LISTS] == base[:SEEN_OF_LISTS]
    return isinstance(mine, list) and isinstance(theirs, list) and mine == theirs[:layers] and len(mine) == layers


def _config_violation(name: str, own: Facts, base: Facts, seq_len: int | None) -> Violation:
    last, values = name.rsplit(".", 1)[-1], _values(name, own, base)
    if _OTHER_INPUTS.search(f"{name}."):
        return _violation(CONFIG, "config", f"{values}; it concerns inputs that are not scored", "warn")
    if last in _REACH or last in _LAYERS:
        if _beyond_windows(own, base, seq_len, last):
            return _violation(CONFIG, "config", f"{values}; no scored window is as long", "warn")
        return _violation(CONFIG, "config", values, "fail")
    if last in _POSITIONS:
        if (_rope_kinds(own) | _rope_kinds(base)) & _POSITIONAL_ROPES:
            return _violation(CONFIG, "config", values, "fail")
        return _violation(CONFIG, "config", f"{values}; no scored window is as long", "warn")
    if _ROTARY.search(name) or _COMPUTES.fullmatch(last):
        return _violation(CONFIG, "config", values, "fail")
    if last in _GENERATES:
        return _violation(CONFIG, "config", f"{values}; it is used to generate text", "warn")
    return _violation(CONFIG, "config", f"{values}; it is not known what this field changes", "warn")


def _beyond_windows(own: Facts, base: Facts, seq_len: int | None, changed: str) -> bool:
    """Return whether both sides have the same attention range in windows of ``seq_len`` tokens."""
    reaches = [
        value
        for side in (own, base)
        for name, value in side.items()
        if name.rsplit(".", 1)[-1] in _REACH and isinstance(value, int) and not isinstance(value, bool)
    ]
    if seq_len is None or any(reach < seq_len for reach in reaches):
        return False
    if changed in _REACH:
        return True
    kinds = {kind for side in (own, base) for kind in _layer_kinds(side)}
    return bool(reaches) and bool(kinds) and kinds <= _REACH_ONLY


def _layer_kinds(side: Facts) -> Iterator[str]:
    for name, value in side.items():
        if name.rsplit(".", 1)[-1] == "layer_types" and isinstance(value, str):
            yield from re.findall(r"[a-z0-9_]+", value)


def _rope_kinds(side: Facts) -> set[str]:
    return {
        str(value)
        for name, value in side.items()
        if _ROTARY.search(name) and name.rsplit(".", 1)[-1] in ("rope_type", "type")
    }


def _with_ids(side: Facts) -> dict[str, Any]:
    """Return the generation config; as in transformers, missing ids are taken from ``config.json``."""
    ids = {name: side["config"][name] for name in ("bos_token_id", "eos_token_id") if name in side["config"]}
    return {**ids, **side["generation"]}


def _tokenizer_violations(baseline: Facts, subject: Facts) -> Iterator[Violation]:
    own, base = subject["configuration"], baseline["configuration"]
    same_vocabulary = subject["vocabulary_sha256"] == baseline["vocabulary_sha256"]
    splits = own["text_as_baseline"]
    if splits is False and (same_vocabulary or subject["added_special_tokens"] is not None):
        yield _violation(TOKENIZER, "tokenizer", "it gives the scored text other ids than the baseline's", "fail")
    parts = (own["tokenizer"], base["tokenizer"])
    if None not in parts:
        for part in sorted({*parts[0], *parts[1]}):
            before, after = parts[1].get(part), parts[0].get(part)
            if before == after or (part == "added_tokens" and not same_vocabulary):
                continue  # tokens that one side lacks are reported as such
            reason = f"{part.replace('_', ' ')} {after}, in the baseline {before}"
            also = "" if splits is False else "; the scored text has the same ids, other texts may not"
            yield _violation(TOKENIZER, "tokenizer", f"{reason}{also}", "warn")
    if own["appended_token_ids"] != base["appended_token_ids"]:
        words = [
            f"tokens {ids}" if ids else "nothing" for ids in (own["appended_token_ids"], base["appended_token_ids"])
        ]
        yield _violation(
            TOKENIZER, "tokenizer", f"it ends a text with {words[0]}, the baseline's with {words[1]}", "warn"
        )
    for name in _differing(own["special_tokens"], base["special_tokens"]):
        if name not in base["special_tokens"] and not same_vocabulary:
            continue  # a token that was added is reported as such
        reason = f"{_values(name, own['special_tokens'], base['special_tokens'])}; it is used to generate text"
        yield _violation(TOKENIZER, "tokenizer", reason, "warn")


def _differing(own: Facts, base: Facts) -> list[str]:
    return [name for name in sorted({*own, *base}) if not _alike(own.get(name), base.get(name))]


def _alike(own: Any, base: Any) -> bool:
    """Return whether two values have the same effect: numbers compared as float32, unset equal to off."""
    if own in (None, False) and base in (None, False):
        return True
    numbers = [value for value in (own, base) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2:
        return _single(own) == _single(base)
    return type(own) is type(base) and bool(own == base)


def _single(value: float) -> bytes | float:
    """Return a number as float32, since files of some formats store 1e-06 as 9.99999997e-07."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return value


def _values(name: str, own: Facts, base: Facts) -> str:
    return f"{name} is {_word(own.get(name))}, in the baseline {_word(base.get(name))}"


def _word(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=True).strip('"')


def _template_words(digest: str | None) -> str:
    return "none" if digest is None else f"the template {digest}"


def _violation(where: str, kind: str, reason: str, severity: str) -> Violation:
    return {"tensor": where, "kind": kind, "reason": reason, "severity": severity}
