"""The final windows of a model, scored and measured in the same forward passes.

The activations of the first windows are measured while these are scored: a forward pass on them is a chunk of the guard
on activations. Where the logits of a chunk do not fit into one pass, the activations are measured in passes of their
own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from transformers import PreTrainedModel

from invarlock.evaluation.activations import ActivationFacts, ActivationObserver, measure_activations
from invarlock.evaluation.canonical_form import OutputTransform
from invarlock.evaluation.scoring import Observer, Scores, score_blocks, score_windows, windows_of_a_pass
from invarlock.evaluation.windows import Windows
from invarlock.measuring.rmt import CHUNK_WINDOWS, PROBE_WINDOWS, REPORT_WINDOWS


@dataclass(frozen=True)
class FinalWindows:
    """What the final windows gave.

    Attributes:
        scores: the losses of all of them.
        activations: of the first ``REPORT_WINDOWS``.
        probe: of the first ``PROBE_WINDOWS``; None unless it was wanted.
        seconds: what the activations took.
    """

    scores: Scores
    activations: ActivationFacts
    probe: ActivationFacts | None
    seconds: float


def measure_final(  # noqa: PLR0913  # the last is optional
    model: PreTrainedModel,
    windows: Windows,
    batch_size: int,
    room_bytes: int | None,
    observer: Observer,
    *,
    probe: bool,
    transform: OutputTransform | None = None,
) -> FinalWindows:
    """Return the scores and the activations of a draw's final windows.

    Activations are those of windows of the first slice alone, since guards learn their limits on one register. Which
    windows share a forward pass does not depend on ``probe``, so that equal models have equal losses.

    Args:
        model: a causal language model, in evaluation mode.
        windows: of the draw.
        batch_size: windows a forward pass.
        room_bytes: what the model and a forward pass may take; None if the device's allocator bounds it.
        observer: sees the log-probabilities of each position.
        probe: whether the probe's windows are measured as well.
        transform: brings outputs into the baseline's form, None to measure them as they are.

    Raises:
        EvaluationError: when the model's forward pass fails.
        OutOfMemoryError: when even one window does not fit in memory.
    """
    own, (first, *others) = windows.first_slice, windows.blocks
    measured = min(PROBE_WINDOWS if probe else REPORT_WINDOWS, len(own))
    observed = None
    if min(batch_size, windows_of_a_pass(model, first.shape[1])) < CHUNK_WINDOWS:
        scores = score_blocks(model, windows.blocks, batch_size, room_bytes, observer)
    else:
        in_chunks = min(PROBE_WINDOWS, len(own))
        with ActivationObserver(model, transform) as activations:
            head = score_windows(model, first[:measured], CHUNK_WINDOWS, room_bytes, observer)
        losses, at_once = list(head.losses), head.batch_size
        if measured < in_chunks:
            further = score_windows(model, first[measured:in_chunks], at_once, room_bytes, observer, measured)
            losses += further.losses
        rest = [block for block in (first[in_chunks:], *others) if len(block)]
        if rest:
            size = batch_size if at_once == CHUNK_WINDOWS else at_once
            losses += score_blocks(model, rest, size, room_bytes, observer, len(losses)).losses
        scores = Scores(tuple(losses), batch_size)
        # a chunk that was halved is none
        observed = activations if at_once == CHUNK_WINDOWS else None
    if observed is not None:
        chunks = -(-REPORT_WINDOWS // CHUNK_WINDOWS)
        return FinalWindows(scores, observed.facts(chunks), observed.facts() if probe else None, observed.seconds)
    scored = time.perf_counter()

    def measure(count: int) -> ActivationFacts:
        return measure_activations(model, own[:count], room_bytes, transform)

    facts = measure(REPORT_WINDOWS)
    return FinalWindows(scores, facts, measure(PROBE_WINDOWS) if probe else None, time.perf_counter() - scored)
