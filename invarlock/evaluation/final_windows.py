"""Scores the final windows of a model and measures their activations in the same forward passes.

The activations of the first windows are measured while these are scored, so each forward pass over them must be one
chunk of the guards on activations. If the logits of a chunk do not fit in one pass, the activations are measured in
separate passes.
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
from invarlock.stages import part


@dataclass(frozen=True)
class FinalWindows:
    """The results of the final windows.

    Attributes:
        scores: the losses of all final windows.
        activations: the measurements of the first ``REPORT_WINDOWS``.
        probe: the measurements of the first ``PROBE_WINDOWS``; None unless requested.
        seconds: the time spent on activations.
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

    Activations are measured on windows of the first slice only, since guards learn their limits on one kind of text.
    How windows are split into forward passes does not depend on ``probe``, so that equal models have equal losses.

    Args:
        model: a causal language model, in evaluation mode.
        windows: the draw's final windows.
        batch_size: windows per forward pass.
        room_bytes: the memory limit for the model and a forward pass; None if the device's allocator enforces one.
        observer: receives the log-probabilities of each position.
        probe: whether the probe's windows are measured too.
        transform: maps outputs to the baseline's form; None measures them as they are.

    Raises:
        EvaluationError: when the model's forward pass fails.
        OutOfMemoryError: when even one window does not fit in memory.
    """
    own, (first, *others) = windows.first_slice, windows.blocks
    measured = min(PROBE_WINDOWS if probe else REPORT_WINDOWS, len(own))
    observed = None
    with part("final windows", len(windows.ids)):
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
            # measurements of a batch that was halved do not cover whole chunks
            observed = activations if at_once == CHUNK_WINDOWS else None
    if observed is not None:
        chunks = -(-REPORT_WINDOWS // CHUNK_WINDOWS)
        return FinalWindows(scores, observed.facts(chunks), observed.facts() if probe else None, observed.seconds)
    scored = time.perf_counter()

    def measure(count: int) -> ActivationFacts:
        return measure_activations(model, own[:count], room_bytes, transform)

    facts = measure(REPORT_WINDOWS)
    return FinalWindows(scores, facts, measure(PROBE_WINDOWS) if probe else None, time.perf_counter() - scored)
