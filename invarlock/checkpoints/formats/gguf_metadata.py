"""Compares the metadata of a GGUF file with the config and the tokenizer of the baseline.

llama.cpp runs a file by its metadata alone, so a different number in them is a different model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.formats.gguf_file import GgufFile, GgufTensor
from invarlock.checkpoints.formats.gguf_positions import RELATIVE, number, position_problems
from invarlock.checkpoints.formats.gguf_splitters import DEFAULT, Outcome, compare_splitting
from invarlock.checkpoints.formats.interface import DOUBT, METADATA, Defect, Quantisation
from invarlock.checkpoints.layout import tokenizer_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
# Numbers that the converter always writes if a config has them; llama.cpp computes without those that are missing.
WRITTEN = frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale", "attention.clamp_kqv"})
# Architectures in which llama.cpp uses a window if a file states one.
WINDOWED = frozenset({"cohere2", "exaone4", "gemma2", "gemma3", "olmo2", "phi3"})
WINDOW, CAUSAL = "attention.sliding_window", "attention.causal"
MODEL, TOKENS, SPLITTER = "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.pre"
SCORES = "tokenizer.ggml.scores"
BYTE_PAIRS, PIECES, NO_MODELS = "gpt2", "llama", (None, "none", "no_vocab")
NORMAL_TOKEN, BLOCK = 1, "blk."
FILE_TYPE, CALIBRATION = "general.file_type", "quantize.imatrix.dataset"
# For each type, the number of weights per scale, and whether there are no zero points.
GROUPS: Mapping[str, tuple[int, bool]] = {
    "Q4_0": (32, True), "Q4_1": (32, False), "Q5_0": (32, True), "Q5_1": (32, False), "Q8_0": (32, True),
    "Q2_K": (16, False), "Q3_K": (16, True), "Q4_K": (32, False), "Q5_K": (32, False), "Q6_K": (16, True),
    "IQ4_NL": (32, True), "IQ4_XS": (32, True), "MXFP4": (32, True),
}  # fmt: skip


def metadata_defects(
    file: GgufFile, tensors: Mapping[str, GgufTensor], config: Mapping[str, Any], baseline: Path
) -> Iterator[Defect]:
    """Yield the contradictions between a file's metadata and the baseline's config or tokenizer.

    Args:
        file: the first part of the model, which has the metadata.
        tensors: the tensors of all parts.
        config: the baseline's config.
        baseline: the baseline's folder.
    """
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    architecture = file.metadata["general.architecture"]
    for key, names in NUMBERS.items():
        stated = number(file.metadata.get(f"{architecture}.{key}"))
        wanted = next((found for name in names if (found := number(config.get(name))) is not None), None)
        if stated is None and wanted and key in WRITTEN:
            yield _defect(file, f"{architecture}.{key} is missing, in the baseline {wanted:.8g}")
        if stated and wanted is None and key == WINDOW and architecture in WINDOWED:
            yield _defect(file, f"{architecture}.{key} is {stated:.8g}, and the baseline has no window")
        if stated is not None and wanted is not None and not math.isclose(stated, wanted, rel_tol=RELATIVE):
            yield _defect(file, f"{architecture}.{key} is {stated:.8g}, in the baseline {wanted:.8g}")
    if file.metadata.get(f"{architecture}.{CAUSAL}") is False and config.get("is_causal") is not False:
        yield _defect(file, f"{architecture}.{CAUSAL} is false, so each token would see the later ones")
    for problem in position_problems(file.metadata, tensors, config):
        yield _defect(file, problem)
    yield from _token_defects(file, tensors, baseline)


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


def _token_defects(file: GgufFile, tensors: Mapping[str, GgufTensor], baseline: Path) -> Iterator[Defect]:
    tokens, kinds = file.metadata.get(TOKENS), file.metadata.get("tokenizer.ggml.token_type")
    model, splitter = file.metadata.get(MODEL), file.metadata.get(SPLITTER)
    embedding = tensors.get("token_embd.weight")
    if not isinstance(tokens, list) or model in NO_MODELS:
        if tokenizer_files(baseline):
            what = f"{MODEL} is {str(model)[:40]!r}" if isinstance(tokens, list) else f"it has no {TOKENS}"
            yield _defect(file, f"{what}, so llama.cpp cannot read text with it")
        return
    scores = file.metadata.get(SCORES)
    if model == PIECES and not (isinstance(scores, list) and len(scores) >= len(tokens)):
        reason = f"it has fewer {SCORES} than tokens, so llama.cpp may split text otherwise; convert the model again"
        yield Defect(file.path.name, DOUBT, reason)
    if model == BYTE_PAIRS and splitter in (None, "", DEFAULT):
        what = "is 'default'" if splitter else "is missing"
        yield Defect(
            file.path.name,
            DOUBT,
            f"{SPLITTER} {what}, so llama.cpp splits text by its default rules and may give it other ids than the "
            "baseline's tokenizer; convert the model again",
        )
    tokenizer = _tokenizer(baseline)
    if model == BYTE_PAIRS and splitter not in (None, "", DEFAULT) and tokenizer is not None:
        doubt = _splitter_doubt(splitter, tokenizer)
        if doubt is not None:
            yield Defect(file.path.name, DOUBT, doubt)
    if embedding is not None and len(tokens) != embedding.shape[0]:
        yield _defect(file, f"it lists {len(tokens)} tokens, and token_embd.weight has {embedding.shape[0]} rows")
    known = {} if tokenizer is None else _normal_tokens(tokenizer)
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


def _splitter_doubt(stated: object, tokenizer: Tokenizer) -> str | None:
    """Return why llama.cpp may split text otherwise than the baseline's tokenizer; None if it does not.

    Whether it matters to the scored text is judged with the other facts of the tokenizer.
    """
    found = compare_splitting(stated, tokenizer.to_str())
    named = f"{SPLITTER} is {ascii(found.name)[:60]}"
    if found.outcome is Outcome.OTHER:
        return (
            f"{named}, by whose rules llama.cpp gives text other ids than the baseline's tokenizer, and by those of "
            f"{found.proper!r} the same; convert the model again"
        )
    if found.outcome is Outcome.UNKNOWN:
        return f"{named}, a name whose rules are not known here; how llama.cpp splits text is not compared"
    if found.outcome is Outcome.UNDECIDED:
        return f"{named}; its rules cannot be compared with the baseline's tokenizer"
    return None


def _tokenizer(baseline: Path) -> Tokenizer | None:
    """Return the tokenizer of ``tokenizer.json``; None if there is no such file or it cannot be read."""
    if not (baseline / TOKENIZER_FILE).is_file():
        return None
    # imported here because other formats do not need it
    from tokenizers import Tokenizer

    try:
        # the files of large vocabularies have tens of megabytes
        return Tokenizer.from_file(str(baseline / TOKENIZER_FILE))
    except Exception:  # noqa: BLE001 - measuring reports what a tokenizer refuses, and why
        return None


def _normal_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """Return the tokens of a tokenizer by id, without added tokens."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    return {number: token for token, number in vocabulary.items()}


def _defect(file: GgufFile, reason: str) -> Defect:
    return Defect(file.path.name, METADATA, reason)
