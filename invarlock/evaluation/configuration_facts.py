"""The settings of a checkpoint that affect its outputs: ``config.json``, generation config, tokenizer, chat template.

Example::

    configuration_facts(files, tokenizer)["config"]["rope_parameters.rope_theta"]     # 10000.0

A config is read as transformers reads it. A default that only one of two files states is therefore not a difference,
and neither is an older name of the same field. Fields that only describe how a model is stored, trained or returned are
left out.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from invarlock.checkpoints.layout import CONFIG_FILE
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.digests import short_digest
from invarlock.documents import JsonObject
from invarlock.documents.measurements import ConfigurationFacts
from invarlock.errors import CheckpointError, DocumentError
from invarlock.evaluation.tokenizer_facts import TokenizerFacts
from invarlock.jsonio import read_json

GENERATION_FILE = "generation_config.json"
# A longer text is cut and ends with its digest.
MAX_TEXT = 200
# Fields that are judged by the tensors, the embedding and the weight tie.
JUDGED = frozenset(
    {"model_type", "vocab_size", "num_hidden_layers", "n_layer", "num_local_experts", "num_experts"}
    | {"tie_word_embeddings"}
)
# Fields that say how weights are stored, or by which program.
STORAGE = frozenset(
    {"quantization_config", "quantization", "compression_config", "torch_dtype", "dtype", "transformers_version"}
    | {"_name_or_path", "name_or_path", "model_name", "auto_map", "use_cache", "cache_implementation", "torchscript"}
    | {"attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal"}
    | {"_experts_implementation", "use_flash_attn", "unsloth_fixed", "unsloth_version", "_from_model_config"}
    | {"transformers_weights", "pretraining_tp", "use_bfloat16", "_commit_hash", "use_kernels"}
)
# Fields that matter only in training or to a caller of the library. A padding token is masked everywhere. Which layers
# slide (``max_window_layers``, ``use_sliding_window``) is resolved into ``layer_types`` and ``sliding_window``.
UNUSED = re.compile(
    r"initializer_.*|init_.*|.*dropout.*|.*pdrop|.*aux_loss.*|.*_loss_coef|output_.*|return_dict.*|id2label|label2id"
    r"|problem_type|num_labels|summary_.*|gradient_checkpointing|is_encoder_decoder|is_decoder|add_cross_attention"
    r"|cross_attention_hidden_size|tie_encoder_decoder|chunk_size_feed_forward|pruned_heads|finetuning_task"
    r"|task_specific_params|tokenizer_class|prefix|sep_token_id|pad_token_id|tf_legacy_loss|router_jitter_noise"
    r"|max_window_layers|use_sliding_window|tie_word_embeddings|rescale_prenorm_residual|time_step_init_scheme"
)
# The values that transformers uses in generation if a file does not state them.
GENERATION_DEFAULTS: Mapping[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0, "repetition_penalty": 1.0,
    "length_penalty": 1.0, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "max_length": 20,
    "min_length": 0, "diversity_penalty": 0.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "early_stopping": False, "renormalize_logits": False, "remove_invalid_values": False, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}  # fmt: skip


def configuration_facts(files: CheckpointFiles, tokenizer: TokenizerFacts | None) -> ConfigurationFacts:
    """Return the ``configuration`` of the invariants guard's facts.

    Args:
        files: the checkpoint.
        tokenizer: the facts of its tokenizer, or None if they are not known.

    Raises:
        CheckpointError: when ``generation_config.json`` is malformed.
    """
    config = dict(_fields(_resolved(files)))
    hidden, heads = (config.get(name) for name in ("hidden_size", "num_attention_heads"))
    if type(hidden) is int and type(heads) is int and heads > 0:
        # head_dim follows from these two; some files state it anyway
        config.setdefault("head_dim", hidden // heads)
    return {
        "config": {name: value for name, value in config.items() if name not in JUDGED},
        "generation": _generation(files.folder),
        "tokenizer": None if tokenizer is None or tokenizer.parts is None else dict(tokenizer.parts),
        "special_tokens": {} if tokenizer is None else dict(tokenizer.special_names),
        "appended_token_ids": None if tokenizer is None else list(tokenizer.suffix),
        "chat_template": None if tokenizer is None else tokenizer.chat_template,
        "text_as_baseline": None if tokenizer is None else tokenizer.text_as_baseline,
    }


def _resolved(files: CheckpointFiles) -> JsonObject:
    """Return a config with the defaults of its class; unchanged if transformers has no such class or refuses it."""
    stated = copy.deepcopy(dict(files.config))
    try:
        found: JsonObject = CONFIG_MAPPING[files.model_type].from_dict(stated).to_dict()
    except Exception:  # noqa: BLE001 - a model that cannot be built is not scored, and the report says why
        return dict(files.config)
    return found


def _generation(folder: Path) -> JsonObject | None:
    """Return a folder's generation settings; None for an adapter or a GGUF file, which use their baseline's."""
    if not (folder / CONFIG_FILE).is_file():
        return None
    path = folder / GENERATION_FILE
    if not path.is_file():
        return {}
    try:
        document = read_json(path)
    except DocumentError as error:
        raise CheckpointError(f"{error}; fetch the file again, or remove it") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: no table; fetch the file again, or remove it")
    return {
        name: value
        for name, value in _fields(document)
        if not (name in GENERATION_DEFAULTS and GENERATION_DEFAULTS[name] == value)
    }


def _fields(document: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a document: a dotted name, and the value as a number, a flag or a text."""
    for stated, value in document.items():
        key = str(stated)  # transformers turns the keys of some tables into numbers
        if key in STORAGE or UNUSED.fullmatch(key):
            continue
        name = f"{where}{_text(key)}"
        if isinstance(value, list) and len(value) == 1:
            value = value[0]  # eos_token_id is a number or a list of them
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{name}.")
        elif value not in (None, [], {}):
            yield name[-MAX_TEXT:], _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _text(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def _text(value: str) -> str:
    """Return a text in printable ASCII; a long text is cut and ends with its digest."""
    text = value.encode("unicode_escape").decode()
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 20]}... {short_digest(text.encode())}"
