"""Scores windows: the mean negative log-likelihood of each, in batches that are halved if memory runs out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from invarlock.errors import OutOfMemoryError
from invarlock.evaluation.memory import check_room, forward_bytes, one_out_of_memory
from invarlock.evaluation.models import forward
from invarlock.evaluation.output_heads import HEAD_LOGITS, separate_head
from invarlock.evaluation.windows import Tokens
from invarlock.measuring.fidelity import LogitScores, TokenScores
from invarlock.measuring.rmt import CHUNK_WINDOWS
from invarlock.stages import announce, part

# The most logits of one forward pass: 128 million take 512 MB as float32 and half of that as bfloat16. With a
# vocabulary of 32,000, a pass scores eight windows of 512 tokens. A single window may exceed the limit.
PASS_LOGITS = 1 << 27
# Half of that on a CPU, 256 MB: larger passes are not faster there, and they take memory from other workers.
CPU_PASS_LOGITS = PASS_LOGITS // 2
# The most logits that become log-probabilities in one operation. On a CPU: one million, 4 MB as float32, which fit in
# the cache with the result and with what an observer computes. On other devices: 16 million, 64 MB, because they need
# large operations to be busy.
CACHED_LOGITS = 1 << 20
CHUNK_LOGITS = 1 << 24
# Nine digits restore a float32 exactly, so that later computations use the stored values.
LOSS_DIGITS = 9
# Chance is 12 nats for a vocabulary of 150,000. A loss above this limit says that the model is broken, nothing more.
MAX_LOSS = 1e4


@dataclass(frozen=True)
class Scores:
    """Losses in nats per token, None if not finite or above ``MAX_LOSS``, and the batch size that fitted."""

    losses: tuple[float | None, ...]
    batch_size: int


class Observer(Protocol):
    """Receives a model's outputs while its windows are scored, so that no second forward pass is needed."""

    def observe(
        self, windows: tuple[int, int], positions: tuple[int, int], scores: TokenScores, following: torch.Tensor
    ) -> None:
        """Receive the scores of some windows and predicted positions; both are half-open ranges (first, end).

        ``following`` has the log-probability of the token that follows in the text, shape (windows, positions).
        The same part may be passed again after a batch ran out of memory.
        """


def score_blocks(
    model: PreTrainedModel,
    blocks: Sequence[Tokens],
    batch_size: int,
    room_bytes: int | None = None,
    observer: Observer | None = None,
    first: int = 0,
) -> Scores:
    """Return the scores of windows of several lengths, and the batch size that fitted for the first length.

    A batch of longer windows has fewer of them, so that the number of tokens stays about the same.

    Args:
        model: a causal language model, in evaluation mode.
        blocks: token ids, one block of shape (windows, seq_len) for each length.
        batch_size: the initial number of windows of the first length per forward pass.
        room_bytes: the memory limit for the model and a forward pass; None if the device's allocator enforces one.
        observer: receives the log-probabilities of each position.
        first: the number that the observer gets for the first window.

    Raises:
        EvaluationError, OutOfMemoryError: as ``score_windows``.
    """
    losses: list[float | None] = []
    fitted = batch_size
    with part("windows", first + sum(len(block) for block in blocks)):
        for block in blocks:
            own = max(1, batch_size * blocks[0].shape[1] // block.shape[1])
            scores = score_windows(model, block, own, room_bytes, observer, first + len(losses))
            if not losses:
                fitted = scores.batch_size
            losses += scores.losses
    return Scores(tuple(losses), fitted)


@torch.inference_mode()
def score_windows(
    model: PreTrainedModel,
    tokens: Tokens,
    batch_size: int,
    room_bytes: int | None = None,
    observer: Observer | None = None,
    first: int = 0,
) -> Scores:
    """Return the mean negative log-likelihood of each window's predicted tokens.

    The losses come from the model's own logits, so they include any soft cap, scale or transform that the model
    applies. Cross entropy is computed in float32. ``windows_of_a_pass`` limits the size of a batch. After an
    out-of-memory error, the batch is halved and scored again.

    Args:
        model: a causal language model, in evaluation mode.
        tokens: token ids, shape (windows, seq_len).
        batch_size: the initial number of windows per forward pass.
        room_bytes: the memory limit for the model and a forward pass; None if the device's allocator enforces one.
        observer: receives the log-probabilities of each position.
        first: the number that the observer gets for the first window, and the number of windows scored before.

    Raises:
        EvaluationError: when the model's forward pass fails.
        OutOfMemoryError: when even one window does not fit in memory.
    """
    losses: list[float | None] = []
    batch_size = max(1, min(batch_size, windows_of_a_pass(model, tokens.shape[1])))
    announce("windows", first, first + len(tokens))
    while len(losses) < len(tokens):
        batch = torch.from_numpy(tokens[len(losses) : len(losses) + batch_size]).long().to(model.device)
        try:
            with one_out_of_memory():
                check_room(forward_bytes(model, len(batch), tokens.shape[1]), room_bytes)
                losses += [stored_loss(value) for value in _score_batch(model, batch, first + len(losses), observer)]
            announce("windows", first + len(losses), first + len(tokens))
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise OutOfMemoryError(
                    f"one window of {tokens.shape[1]} tokens does not fit in the memory of {model.device}; "
                    "use a shorter seq_len or a larger device"
                ) from None
            batch_size = max(1, batch_size // 2)
            torch.cuda.empty_cache()
    return Scores(tuple(losses), batch_size)


def windows_of_a_pass(model: PreTrainedModel, seq_len: int) -> int:
    """Return how many windows a forward pass may have to limit its logits; 0 if one window exceeds the limit.

    Where the head runs apart from the model, a chunk of the guards on activations always fits.
    """
    most = CPU_PASS_LOGITS if model.device.type == "cpu" else PASS_LOGITS
    fitting = int(most // (seq_len * model.config.get_text_config().vocab_size))
    return fitting if separate_head(model) is None else max(fitting, CHUNK_WINDOWS)


def _score_batch(model: PreTrainedModel, batch: torch.Tensor, first: int, observer: Observer | None) -> list[float]:
    total = torch.zeros(len(batch), dtype=torch.float64)
    for begin, logits in _parts(model, batch):
        on_cpu = logits.device.type == "cpu"
        # if the model is spread over devices, the last one has the logits
        targets, total = batch[:, 1:].to(logits.device), total.to(logits.device)
        for start, stop in _chunks(logits.shape, CACHED_LOGITS if on_cpu else CHUNK_LOGITS):
            scores = LogitScores.of(logits[:, start:stop])
            positions = begin + start, begin + stop
            following = scores.of_tokens(targets[:, slice(*positions), None])[..., 0]
            total -= following.double().sum(dim=1)
            if observer is not None:
                observer.observe((first, first + len(batch)), positions, scores, following)
    mean: list[float] = (total / (batch.shape[1] - 1)).tolist()
    return mean


def _parts(model: PreTrainedModel, batch: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the first of some predicted positions, and their logits, shape (windows, positions, vocabulary)."""
    head = separate_head(model)
    if head is None:
        yield 0, forward(model, batch).logits[:, :-1]
        return
    with head.removed(model):
        hidden = forward(model, batch).logits[:, :-1]
    with one_out_of_memory():
        for start, stop in _chunks((*hidden.shape[:2], model.config.get_text_config().vocab_size), HEAD_LOGITS):
            yield start, head.logits(model, hidden[:, start:stop])


def _chunks(shape: Sequence[int], values: int) -> Iterator[tuple[int, int]]:
    windows, positions, vocabulary = shape
    step = max(1, values // (windows * vocabulary))
    for start in range(0, positions, step):
        yield start, min(start + step, positions)


def stored_loss(loss: float) -> float | None:
    """Return a loss in the form that a report stores: nine digits; None if it is not finite or too large."""
    return float(f"{loss:.{LOSS_DIGITS}g}") if math.isfinite(loss) and loss <= MAX_LOSS else None
