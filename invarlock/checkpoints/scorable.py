"""Checks from ``config.json`` whether a model can be scored on windows of text; PyTorch is not imported.

Example::

    check_scorable(Path("gpt2"), seq_len=2048)     # UsageError: it exceeds the context of 1024 tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invarlock.checkpoints.safetensors_files import read_config
from invarlock.errors import CheckpointError, UsageError
from invarlock.problems import Code

# Names of the number of positions in different families. BLOOM and MPT have none: ALiBi has no limit.
POSITION_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")


def check_scorable(folder: Path, seq_len: int) -> None:
    """Check that a checkpoint is a causal language model with positions for windows of ``seq_len`` tokens.

    Raises:
        CheckpointError: when its config cannot be read, or it is another kind of model.
        UsageError: when a window is longer than the model's context.
    """
    config = read_config(folder)
    architectures = config.get("architectures")
    names = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    if any(name.endswith("ForMaskedLM") for name in names):
        raise CheckpointError(
            f"{folder}: {names[0]} is a masked language model; perplexity is measured on causal ones only"
        )
    if config.get("is_encoder_decoder") is True:
        raise CheckpointError(f"{folder}: an encoder-decoder model; perplexity is measured on causal ones only")
    positions = max_positions(config)
    if positions is not None and seq_len > positions:
        raise UsageError(
            f"{folder}: --seq-len {seq_len} exceeds the model's context of {positions} tokens; "
            f"use --seq-len {positions} or less",
            code=Code.SETTING_INVALID,
        )


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Return the longest input that a model was made for; None if its config states no limit.

    If the config extends rotary positions, the extended length counts.
    """
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    bounds: list[int] = [config[key] for key in POSITION_KEYS if _is_count(config.get(key))]
    if not bounds:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if isinstance(scaling, dict):
        factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
        if isinstance(factor, int | float) and 1 < factor < 1e6 and isinstance(original, int) and _is_count(original):
            bounds.append(int(factor * original))
    return max(bounds)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
