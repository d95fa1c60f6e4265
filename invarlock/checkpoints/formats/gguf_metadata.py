"""Compares the metadata of a GGUF file with the config and the tokenizer of the baseline.

llama.cpp runs a file by its metadata alone, so a different number in them is a different model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from invarlock.checkpoints.formats.gguf_file import GgufFile, GgufTensor
from invarlock.checkpoints.formats.interface import METADATA, Defect, Quantisation

TOKENIZER_FILE = "tokenizer.json"
# Keys of a GGUF file, after the name of its architecture, and the names of the same number in configs.
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "norm_epsilon", "layer_norm_epsilon", "norm_eps"),
    "attention.clamp_kqv": ("clip_qkv",),
    "attention.scale": ("attention_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
}
ROPE_BASE, DEFAULT_ROPE_BASE, ROPE_SIZE = "rope.freq_base", 10000.0, "rope.dimension_count"
ROPE_FACTORS = "rope_freqs.weight"
# Tolerance, because GGUF stores a config's numbers in float32.
RELATIVE = 1e-6
NORMAL_TOKEN, BLOCK = 1, "blk."
FILE_TYPE, CALIBRATION = "general.file_type", "quantize.imatrix.dataset"
# For each type, the number of weights per scale, and whether there are no zero points.
GROUPS: Mapping[str, tuple[int, bool]] = {
    "Q4_0": (32, True), "Q4_1": (32, False), "Q5_0": (32, True), "Q5_1": (32, False), "Q8_0": (32, True),
    "Q2_K": (16, False), "Q3_K": (16, True), "Q4_K": (32, False), "Q5_K": (32, False), "Q6_K": (16, True),
    "IQ4_NL": (32, True), "IQ4_XS": (32, True), "MXFP4": (32, True),
}  # fmt: skip


def metadata_defects(file: GgufFile, config: Mapping[str, Any], baseline: Path) -> Iterator[Defect]:
    """Yield the contradictions between a file's metadata and the baseline's config or tokenizer."""
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    architecture = file.metadata["general.architecture"]
    for key, names in NUMBERS.items():
        stated = _number(file.metadata.get(f"{architecture}.{key}"))
        wanted = next((number for name in names if (number := _number(config.get(name))) is not None), None)
        if stated is not None and wanted is not None and not math.isclose(stated, wanted, rel_tol=RELATIVE):
            yield _defect(file, f"{architecture}.{key} is {stated:.8g}, in the baseline {wanted:.8g}")
    turned, wanted = _number(file.metadata.get(f"{architecture}.{ROPE_SIZE}")), _rotated_features(config)
    if turned is not None and wanted is not None and turned != wanted:
        yield _defect(file, f"{architecture}.{ROPE_SIZE} is {turned:.8g}, in the baseline {wanted}")
    base = file.metadata.get(f"{architecture}.{ROPE_BASE}", DEFAULT_ROPE_BASE)
    number, known = _number(base), _rope_bases(config)
    if known and not (number is not None and any(math.isclose(number, one, rel_tol=RELATIVE) for one in known)):
        words = " or ".join(f"{one:.8g}" for one in known)
        yield _defect(file, f"{architecture}.{ROPE_BASE} is {str(base)[:40]}, in the baseline {words}")
    scaled = _rope_type(config) == "llama3"
    if scaled != (ROPE_FACTORS in file.tensors):
        there = "missing" if scaled else "there"
        yield _defect(file, f"{ROPE_FACTORS} is {there}, and the baseline's rope_type is {_rope_type(config)}")
    yield from _token_defects(file, baseline)


def quantisation(
    metadata: Mapping[str, Any], kinds: Mapping[int, str], file_types: Mapping[int, str], packed: list[GgufTensor]
) -> Quantisation:
    """Return the report's description of how a file was quantised.

    Args:
        metadata: the metadata of the file.
        kinds: ggml's names of types.
        file_types: llama.cpp's names of mixtures of types.
        packed: the quantised tensors.
    """
    weights = Counter[str]()
    # embedding and head often have more bits than the name of the mixture says
    for tensor in [one for one in packed if one.name.startswith(BLOCK)] or packed:
        weights[kinds[tensor.kind]] += tensor.elements
    main = max(weights, key=lambda kind: weights[kind], default="")
    stated = metadata.get(FILE_TYPE)
    mixture = file_types.get(stated) if type(stated) is int else None
    name = mixture.removeprefix("MOSTLY_").removeprefix("ALL_") if mixture else main or "not quantised"
    calibration = metadata.get(CALIBRATION)
    zero_points = {GROUPS[kind][1] if kind in GROUPS else None for kind in weights}
    return Quantisation(
        tool="llama.cpp",
        method=f"GGUF ({name})",
        bits=_bits(main),
        group_size=GROUPS[main][0] if main in GROUPS else None,
        symmetric=zero_points.pop() if len(zero_points) == 1 else None,
        calibration=calibration[:500] if isinstance(calibration, str) else None,
    )


def _bits(kind: str) -> int | None:
    """Return the bits per code from the name of a type: 4 for Q4_K, 2 for IQ2_XS."""
    digits = [one for one in kind.partition("_")[0] if one.isdigit()]
    return int(digits[-1]) if digits else None


def _token_defects(file: GgufFile, baseline: Path) -> Iterator[Defect]:
    tokens, kinds = file.metadata.get("tokenizer.ggml.tokens"), file.metadata.get("tokenizer.ggml.token_type")
    embedding = file.tensors.get("token_embd.weight")
    if not isinstance(tokens, list):
        return
    if embedding is not None and len(tokens) != embedding.shape[0]:
        yield _defect(file, f"it lists {len(tokens)} tokens, and token_embd.weight has {embedding.shape[0]} rows")
    known = _normal_tokens(baseline)
    listed = {
        number: token
        for number, token in enumerate(tokens)
        if not isinstance(kinds, list) or number >= len(kinds) or kinds[number] == NORMAL_TOKEN
    }
    other = [number for number, token in listed.items() if number in known and known[number] != token]
    if other:
        first = other[0]
        words = f"{ascii(listed[first])[:40]} for {ascii(known[first])[:40]}"
        yield _defect(
            file, f"{len(other)} of {len(known)} tokens are not the baseline's, such as number {first}: {words}"
        )


def _normal_tokens(baseline: Path) -> dict[int, str]:
    """Return the tokens of ``tokenizer.json`` by id, without added tokens; empty if it has no list."""
    if not (baseline / TOKENIZER_FILE).is_file():
        return {}
    # imported here because other formats do not need it
    from tokenizers import Tokenizer

    try:
        # the files of large vocabularies have tens of megabytes
        vocabulary = Tokenizer.from_file(str(baseline / TOKENIZER_FILE)).get_vocab(with_added_tokens=False)
    except Exception:  # noqa: BLE001 - measuring reports what a tokenizer refuses, and why
        return {}
    return {number: token for token, number in vocabulary.items()}


def _rope_tables(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a config's settings of rotary positions, one for each kind of layer if they differ."""
    for key in ("rope_parameters", "rope_scaling"):
        table = config.get(key)
        if isinstance(table, dict) and table:
            inner: list[Mapping[str, Any]] = [one for one in table.values() if isinstance(one, dict)]
            return inner or [table]
    return []


def _rope_bases(config: Mapping[str, Any]) -> list[float]:
    stated = [config.get("rope_theta"), *(table.get("rope_theta") for table in _rope_tables(config))]
    return list(dict.fromkeys(number for one in stated if (number := _number(one)) is not None))


def _rotated_features(config: Mapping[str, Any]) -> int | None:
    """Return how many features of a head rotary positions rotate; None if a config does not state it."""
    shares = [config.get("partial_rotary_factor"), *(one.get("partial_rotary_factor") for one in _rope_tables(config))]
    share = next((number for one in shares if (number := _number(one)) is not None), None)
    width, heads = _number(config.get("hidden_size")), _number(config.get("num_attention_heads"))
    size = _number(config.get("head_dim")) or (width // heads if width and heads else None)
    return None if share is None or size is None else int(share * size)


def _rope_type(config: Mapping[str, Any]) -> str:
    types = (table.get("rope_type") or table.get("type") for table in _rope_tables(config))
    return next((str(one)[:40] for one in types if one), "default")


def _number(value: object) -> float | None:
    """Return a finite number; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _defect(file: GgufFile, reason: str) -> Defect:
    return Defect(file.path.name, METADATA, reason)
