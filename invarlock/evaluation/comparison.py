"""Measuring a baseline once, and every subject against it: the raw part of reports.

Example::

    baseline = measure_baseline(folder, text, plan, placement)
    measured = compare(subject, baseline, plan, run=1, placement=placement)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from invarlock.checkpoints.digests import digest_checkpoint, tokenizer_digest
from invarlock.errors import EvaluationError
from invarlock.evaluation.checkpoint_facts import CheckpointFacts, measure_checkpoint
from invarlock.evaluation.models import Placement, load_model, load_tokenizer
from invarlock.evaluation.scoring import Scores, score_windows
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.windows import Draw, draw_windows
from invarlock.reports.invariants import derive_invariants


@dataclass(frozen=True)
class WindowPlan:
    """How much text is scored: ``preview`` and ``final`` windows of ``seq_len`` tokens; run n draws with seed + n."""

    seq_len: int
    preview: int
    final: int
    seed: int
    batch_size: int

    def window_seed(self, run: int) -> int:
        return self.seed + run


@dataclass(frozen=True)
class ScoredDraw:
    """A draw of windows and the losses of its preview and final windows."""

    run: int
    draw: Draw
    preview: Scores
    final: Scores


@dataclass(frozen=True)
class Baseline:
    """A baseline and all that was measured of it; ``draws`` by run, ``seconds`` a stage."""

    digest: str
    tokenizer_sha256: str
    facts: CheckpointFacts
    draws: dict[int, ScoredDraw]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """What was measured of a subject; ``not_scored`` says why there are no scores."""

    digest: str
    facts: CheckpointFacts
    preview: Scores | None
    final: Scores | None
    not_scored: str | None
    seconds: dict[str, float]


def draw_runs(folder: Path, text: SourceText, plan: WindowPlan, runs: Sequence[int]) -> dict[int, Draw]:
    """Return the draw of each run, the text tokenised once with the checkpoint's own tokenizer.

    Raises:
        EvaluationError: when the tokenizer cannot be loaded or the text is too short.
    """
    tokenizer = load_tokenizer(folder)
    tokens = tokenizer(text.text, add_special_tokens=False, verbose=False)["input_ids"]
    return {run: draw_windows(tokens, plan.seq_len, plan.preview, plan.final, plan.window_seed(run)) for run in runs}


def measure_baseline(folder: Path, draws: dict[int, Draw], plan: WindowPlan, placement: Placement) -> Baseline:
    """Return all measurements of a baseline.

    Raises:
        CheckpointError: when it is no whole checkpoint.
        EvaluationError: when it cannot be loaded, or a loss is not finite.
    """
    started = time.perf_counter()
    facts = measure_checkpoint(folder, len(load_tokenizer(folder)))
    weighed = time.perf_counter()
    model = load_model(folder, placement)
    loaded = time.perf_counter()
    scored = {}
    for run, draw in draws.items():
        preview = score_windows(model, draw.preview.tokens, plan.batch_size)
        final = score_windows(model, draw.final.tokens, plan.batch_size)
        if None in preview.losses or None in final.losses:
            raise EvaluationError("the baseline's own loss is not finite; it cannot be compared with")
        scored[run] = ScoredDraw(run, draw, preview, final)
    seconds = {
        "measure_weights": weighed - started,
        "load": loaded - weighed,
        "score": time.perf_counter() - loaded,
    }
    return Baseline(digest_checkpoint(folder), tokenizer_digest(folder), facts, scored, seconds)


def compare(subject: Path, baseline: CheckpointFacts, draw: Draw, plan: WindowPlan, placement: Placement) -> Measured:
    """Return the measurements of a subject on the windows of its baseline.

    A subject whose tensors are not the baseline's is not loaded: what is missing would be measured at random.

    Raises:
        CheckpointError: when it is no whole checkpoint.
        EvaluationError: when one window does not fit in memory.
    """
    started = time.perf_counter()
    facts = measure_checkpoint(subject, len(load_tokenizer(subject)))
    digest = digest_checkpoint(subject)
    weighed = time.perf_counter()
    seconds = {"measure_weights": weighed - started, "load": 0.0, "score": 0.0}
    reason = _incomplete(baseline, facts)
    if reason is not None:
        return Measured(digest, facts, None, None, reason, seconds)
    try:
        model = load_model(subject, placement)
    except EvaluationError as error:
        return Measured(digest, facts, None, None, str(error), seconds)
    loaded = time.perf_counter()
    vocabulary = _embedding_rows(model)
    largest = int(max(np.max(draw.preview.tokens), np.max(draw.final.tokens)))
    if largest >= vocabulary:
        reason = f"token {largest} of the text is beyond the {vocabulary} rows of its embedding"
        return Measured(digest, facts, None, None, reason, seconds)
    preview = score_windows(model, draw.preview.tokens, plan.batch_size)
    final = score_windows(model, draw.final.tokens, preview.batch_size)
    seconds |= {"load": loaded - weighed, "score": time.perf_counter() - loaded}
    return Measured(digest, facts, preview, final, None, seconds)


def window_columns(draw: Draw, preview: Scores | None, final: Scores | None, key: str) -> dict[str, dict[str, Any]]:
    """Return ``evaluation_windows`` of one side: ids, token counts, and losses under ``key``."""
    parts = {}
    for name, windows, scores in (("preview", draw.preview, preview), ("final", draw.final, final)):
        count, seq_len = windows.tokens.shape
        parts[name] = {
            "window_ids": list(windows.ids),
            "token_counts": [seq_len - 1] * count,
            key: [None] * count if scores is None else list(scores.losses),
        }
    return parts


def _embedding_rows(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return int(weight.shape[0])


def _incomplete(baseline: CheckpointFacts, subject: CheckpointFacts) -> str | None:
    judged = derive_invariants({"baseline": baseline.invariants, "subject": subject.invariants})
    missing = [violation["tensor"] for violation in judged["violations"] if violation["kind"] == "missing"]
    if not missing:
        return None
    return f"the checkpoint lacks {len(missing)} tensors of its baseline, such as {missing[0]}"
