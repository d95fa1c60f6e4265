"""Scoring windows: the mean negative log-likelihood of each, in batches that adapt to the memory there is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from invarlock.errors import OutOfMemoryError
from invarlock.evaluation.memory import check_room, forward_bytes, one_out_of_memory
from invarlock.evaluation.windows import Tokens

# Logits of one chunk: 16 million float32 are 64 MB, so a vocabulary of 150,000 is scored 100 positions at a time.
CHUNK_LOGITS = 1 << 24
# The digits that bring a float32 back as it was; what is stored is what is computed with.
LOSS_DIGITS = 9


@dataclass(frozen=True)
class Scores:
    """Losses in nats a token, None where not finite, and the batch size that fitted."""

    losses: tuple[float | None, ...]
    batch_size: int


@torch.inference_mode()
def score_windows(model: PreTrainedModel, tokens: Tokens, batch_size: int, room_bytes: int | None = None) -> Scores:
    """Return the mean negative log-likelihood of each window's predicted tokens.

    Cross entropy is float32. Logits are made in chunks of positions, so that memory does not grow with vocabulary ×
    window × batch. On an out-of-memory error the batch is halved and done again.

    Args:
        model: a causal language model, in evaluation mode.
        tokens: token ids, shape (windows, seq_len).
        batch_size: windows a forward pass, to begin with.
        room_bytes: what the model and a forward pass may take; None where the device's allocator bounds it.

    Raises:
        OutOfMemoryError: when even one window does not fit in memory.
    """
    losses: list[float | None] = []
    while len(losses) < len(tokens):
        batch = torch.from_numpy(tokens[len(losses) : len(losses) + batch_size]).long().to(model.device)
        try:
            with one_out_of_memory():
                check_room(forward_bytes(model, len(batch), tokens.shape[1], CHUNK_LOGITS), room_bytes)
                losses += [_stored(value) for value in _score_batch(model, batch)]
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise OutOfMemoryError(
                    f"one window of {tokens.shape[1]} tokens does not fit in the memory of {model.device}; "
                    "use a shorter seq_len or a larger device"
                ) from None
            batch_size = max(1, batch_size // 2)
            torch.cuda.empty_cache()
    return Scores(tuple(losses), batch_size)


# transformers leaves the two accessors used here untyped
def _score_batch(model: Any, batch: torch.Tensor) -> list[float]:
    hidden = model.get_decoder()(input_ids=batch, use_cache=False).last_hidden_state  # (windows, seq_len, hidden)
    # of a model that is spread over devices, the last one has it
    hidden, targets = hidden[:, :-1], batch[:, 1:].to(hidden.device)
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    total = torch.zeros(len(batch), dtype=torch.float64, device=hidden.device)
    for start, stop in _chunks(hidden.shape, config.vocab_size):
        logits = (
            model.get_output_embeddings()(hidden[:, start:stop]).float().to(hidden.device)
        )  # (windows, chunk, vocabulary)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets[:, start:stop].flatten(), reduction="none"
        )
        total += losses.view(len(batch), -1).double().sum(dim=1)
    mean: list[float] = (total / targets.shape[1]).tolist()
    return mean


def _chunks(shape: torch.Size, vocabulary: int) -> Iterator[tuple[int, int]]:
    windows, positions = shape[0], shape[1]
    step = max(1, CHUNK_LOGITS // (windows * vocabulary))
    for start in range(0, positions, step):
        yield start, min(start + step, positions)


def _stored(loss: float) -> float | None:
    return float(f"{loss:.{LOSS_DIGITS}g}") if math.isfinite(loss) else None
