"""Measures a baseline once and each subject against it; the results are the raw part of reports.

Example::

    baseline = measure_baseline(folder, draw_runs(folder, text, plan, [1]), plan, placement, probe=False)
    measured = compare(subject, Comparison(reference, draw, plan, placement, policy["variance"]))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from invarlock.checkpoints.digests import digest_checkpoint, tokenizer_digest
from invarlock.checkpoints.formats.interface import BESIDE_WEIGHTS
from invarlock.checkpoints.scorable import check_scorable
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.errors import EvaluationError, OutOfMemoryError, UsageError
from invarlock.evaluation.activations import ActivationFacts, scaled_outputs
from invarlock.evaluation.canonical_form import measure_canonical_form
from invarlock.evaluation.checkpoint_facts import BaselineWeights, CheckpointFacts, measure_checkpoint
from invarlock.evaluation.final_windows import measure_final
from invarlock.evaluation.float16_range import LargestOutput, is_narrowed
from invarlock.evaluation.gguf_tokenizer import facts_with_metadata
from invarlock.evaluation.kept_tokens import BaselineObserver, SubjectObserver, kept_file, kept_folder
from invarlock.evaluation.measurements import (
    Baseline,
    Comparison,
    KnownBaseline,
    ScoredDraw,
    SubjectMeasurement,
    WindowPlan,
)
from invarlock.evaluation.models import NATIVE, Placement, load_dequantised, load_model, load_stored_model
from invarlock.evaluation.plausibility import check_begins_with_bos, check_plausible
from invarlock.evaluation.scoring import Scores, score_blocks
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.tokenization import load_tokenizer, prefix_token_ids, text_token_ids
from invarlock.evaluation.tokenizer_facts import subject_tokenizer_facts, tokenizer_facts
from invarlock.evaluation.windows import Draw, draw_windows, join_draws
from invarlock.guards.structure import missing_tensors, stated_sizes
from invarlock.guards.variance import SCALED_PROBE_WINDOWS, SCALED_WINDOWS, propose_scales
from invarlock.judgement.expectations import Expectation
from invarlock.judgement.widths import width_of
from invarlock.pages.parts import counted
from invarlock.problems import Code
from invarlock.stages import part, stage


def draw_runs(
    folder: Path,
    text: SourceText,
    plan: WindowPlan,
    runs: Sequence[int],
    usable: Callable[[Sequence[int]], bool] | None = None,
) -> dict[int, Draw]:
    """Return the draw of each run; the text is tokenised once, with the checkpoint's own tokenizer.

    If ``usable`` is given, only windows of token ids that it accepts are drawn. For a text with several slices, the
    plan gives the number of windows of each slice.

    Raises:
        CheckpointError: when the checkpoint is not a causal language model.
        EvaluationError: when the tokenizer cannot be loaded or the text is too short.
        UsageError: when a window is longer than the model's context.
    """
    check_scorable(folder, max([plan.seq_len, *(counts.seq_len for counts in plan.slices.values())]))
    tokenizer = load_tokenizer(folder)
    prefix = prefix_token_ids(tokenizer)

    def draws(source: SourceText, name: str = "") -> dict[int, Draw]:
        tokens, counts = text_token_ids(tokenizer, source.text), plan.counts(name)
        shape = counts.seq_len, counts.preview, counts.final
        try:
            return {run: draw_windows(tokens, *shape, plan.window_seed(run), prefix, usable=usable) for run in runs}
        except EvaluationError as error:
            if not name:
                raise
            raise EvaluationError(f"slice {name}: {error}", code=Code.TEXT_UNUSABLE) from None

    if not text.slices:
        return draws(text)
    sliced = {name: draws(source, name) for name, source in text.slices.items()}
    return {run: join_draws({name: own[run] for name, own in sliced.items()}) for run in runs}


def measure_baseline(  # noqa: PLR0913  # the last two are optional
    folder: Path,
    draws: dict[int, Draw],
    plan: WindowPlan,
    placement: Placement,
    *,
    probe: bool,
    known: KnownBaseline | None = None,
    kept: Path | None = None,
) -> Baseline:
    """Return all measurements of a baseline.

    Args:
        folder: the checkpoint.
        draws: the windows of each run.
        plan: the number and length of the windows.
        placement: the devices and types of the model.
        probe: whether activations are measured over the probe's windows as well.
        known: the digests and facts of the baseline's files, if they were measured before.
        kept: the folder for the files of its most probable tokens, one for each draw; default: next to the checkpoint.

    Raises:
        CheckpointError: if it is not a complete checkpoint.
        EvaluationError: if it cannot be loaded or scored, a loss is not finite, or it predicts text no better than
            chance, or far better after a BOS token that its tokenizer does not add.
    """
    started = time.perf_counter()
    known = known or measure_baseline_weights(folder)
    read = time.perf_counter()
    with stage("loading"):
        model = load_model(folder, placement)
    loaded = time.perf_counter()
    room = placement.room_bytes
    rows = _embedding_rows(model)
    largest = max(_largest_token(draw) for draw in draws.values())
    if largest >= rows:
        raise EvaluationError(
            f"the baseline: token {largest} of the text is beyond the {rows} rows of its embedding; "
            "is the tokenizer another model's?",
            code=Code.BASELINE_IMPLAUSIBLE,
        )
    scored = {}
    for run, draw in draws.items():
        try:
            with part("preview windows", len(draw.preview.ids)):
                preview = score_blocks(model, draw.preview.blocks, plan.batch_size, room)
            path, positions = kept_file(kept or kept_folder(folder), run), draw.final.positions
            with BaselineObserver(path, positions=positions, top_k=plan.top_k) as observer:
                final = measure_final(model, draw.final, preview.batch_size, room, observer, probe=probe)
                fidelity = observer.finish()
        except OutOfMemoryError:
            raise
        except EvaluationError as error:
            raise EvaluationError(f"the baseline cannot be scored: {error}", code=Code.BASELINE_IMPLAUSIBLE) from None
        check_begins_with_bos(model, draw.final.tokens, rows)
        check_plausible([*preview.losses, *final.scores.losses], rows, plan.most_of_chance)
        scored[run] = ScoredDraw(run, draw, preview, final.scores, final.activations, final.probe, fidelity)
    seconds = {
        "measure_weights": read - started,
        "load": loaded - read,
        "score": time.perf_counter() - loaded,
    }
    return Baseline(known.digest, known.tokenizer_sha256, known.facts, scored, seconds)


def measure_baseline_weights(folder: Path) -> KnownBaseline:
    """Return the digests and the facts of a baseline's files.

    Raises:
        CheckpointError: if it is not a complete checkpoint.
        EvaluationError: when its tokenizer cannot be loaded.
    """
    facts = measure_checkpoint(folder, tokenizer_facts(folder))
    return KnownBaseline(digest_checkpoint(folder), tokenizer_digest(folder), facts)


def compare(subject: Path, comparison: Comparison) -> SubjectMeasurement:
    """Return the measurements of a subject on the windows of its baseline.

    The guards on weights measure the dense tensors that packed tensors represent. ``placement`` decides whether the
    model is scored with these dense tensors or as it is stored.

    If scales of FFN outputs are proposed, the subject is scored again with them, on a few windows. With
    ``probe_outputs``, both models are also measured over the probe's windows.

    Weights that differ by more than rounding are compared in a form that both models share, if one is found.

    A subject that lacks tensors of its baseline is not loaded, because they would be initialised at random.

    Raises:
        CheckpointError: if it is not a complete checkpoint of a format that can be read.
        OutOfMemoryError: when the model or one window does not fit in memory.
        UsageError: if it cannot be scored as it is stored because a library or a device is missing.
    """
    started = time.perf_counter()
    baseline, draw, placement = comparison.baseline, comparison.draw, comparison.placement
    digest = digest_checkpoint(subject)
    form = None
    if digest == baseline.digest:
        # the files are the same, so the facts are too
        facts = baseline.facts
    else:
        tokenizer = subject_tokenizer_facts(subject, baseline.folder, baseline.facts.invariants, draw)
        tokenizer = facts_with_metadata(tokenizer, subject, baseline.folder, draw)
        facts = measure_checkpoint(subject, tokenizer, BaselineWeights(baseline.folder, baseline.facts))
        form = measure_canonical_form(baseline.folder, subject, baseline.facts, facts)
        if form is not None and form.changes:
            facts = replace(facts, canonical={**form.spectra, "changes": form.changes})
    weights_read = time.perf_counter()
    seconds = {"measure_weights": weights_read - started, "load": 0.0, "score": 0.0}
    way = scored_as(facts, placement)

    def unscored(reason: str) -> SubjectMeasurement:
        return SubjectMeasurement(digest, facts, None, None, reason, seconds, scored_as=way, form=form)

    reason = _incomplete(baseline.facts, facts, comparison.expected)
    if reason is not None:
        return unscored(reason)
    try:
        with stage("loading"):
            model = _load_subject(subject, baseline.folder, placement, facts)
    except OutOfMemoryError:
        # running out of memory says nothing about the subject
        raise
    except EvaluationError as error:
        return unscored(str(error))
    loaded = time.perf_counter()
    rows, largest = _embedding_rows(model), _largest_token(draw)
    if largest >= rows:
        return unscored(f"token {largest} of the text is beyond the {rows} rows of its embedding")
    room, transform = placement.room_bytes, None if form is None else form.outputs
    try:
        with ExitStack() as hooks:
            outputs = hooks.enter_context(LargestOutput(model)) if is_narrowed(baseline.facts, facts) else None
            hooks.enter_context(part("preview windows", len(draw.preview.ids)))
            preview = score_blocks(model, draw.preview.blocks, comparison.plan.batch_size, room)
        observer = SubjectObserver(baseline.kept, baseline.vocabulary, draw.final.positions, draw.final.slices)
        final = measure_final(
            model,
            draw.final,
            preview.batch_size,
            room,
            observer,
            probe=baseline.probe_outputs is not None,
            transform=transform,
        )
    except OutOfMemoryError:
        raise
    except EvaluationError as error:
        return unscored(str(error))
    scored = time.perf_counter()

    def score_scaled(outputs: Mapping[str, Any], found: ActivationFacts, windows: int) -> Scores | None:
        scales = propose_scales(outputs["modules"], found.variance["modules"], comparison.variance_policy)
        if not scales:
            return None
        with scaled_outputs(model, scales):
            return score_blocks(model, [draw.final.first_slice[:windows]], preview.batch_size, room)

    scaled = score_scaled(baseline.outputs, final.activations, SCALED_WINDOWS)
    measured = time.perf_counter()
    seconds |= {
        "load": loaded - weights_read,
        "score": scored - loaded - final.seconds,
        "measure_activations": final.seconds + measured - scored,
    }
    result = SubjectMeasurement(
        digest,
        facts,
        preview,
        final.scores,
        None,
        seconds,
        final.activations,
        scaled,
        scored_as=way,
        form=form,
        fidelity=observer.finish(),
        overflow=None if outputs is None else outputs.overflow(),
    )
    if baseline.probe_outputs is None or final.probe is None:
        return result
    probe_scaled = score_scaled(baseline.probe_outputs, final.probe, SCALED_PROBE_WINDOWS)
    seconds["probe"] = time.perf_counter() - measured
    return replace(result, probe=final.probe, probe_scaled=probe_scaled)


def scored_as(facts: CheckpointFacts, placement: Placement) -> str:
    """Return how a checkpoint is scored: ``native`` (as it is stored) or ``dequantised``."""
    return NATIVE if facts.invariants["storage"]["quantisation"] is None else placement.scoring


def _load_subject(subject: Path, baseline: Path, placement: Placement, facts: CheckpointFacts) -> PreTrainedModel:
    if facts.invariants["storage"]["quantisation"] is None:
        return load_model(subject, placement)
    if placement.scoring != NATIVE:
        return load_dequantised(open_checkpoint(subject, baseline), placement)
    try:
        return load_stored_model(subject, placement)
    except OutOfMemoryError:
        raise
    except EvaluationError as error:
        if facts.invariants["defects"]:
            raise
        # nothing is wrong with the checkpoint: a library, a kernel or a device is missing
        raise UsageError(
            f"--scoring native: {subject.name}: {error}; install what it needs, or use --scoring dequantised",
            code=Code.EXTRA_NOT_INSTALLED,
        ) from None


def window_columns(draw: Draw, preview: Scores | None, final: Scores | None, key: str) -> dict[str, dict[str, Any]]:
    """Return one side's ``evaluation_windows``: ids, token counts, and the losses under ``key``."""
    parts = {}
    for name, windows, scores in (("preview", draw.preview, preview), ("final", draw.final, final)):
        parts[name] = {
            "window_ids": list(windows.ids),
            "token_counts": windows.positions,
            key: [None] * len(windows.ids) if scores is None else list(scores.losses),
            **({"slices": list(windows.slices)} if windows.slices else {}),
        }
    return parts


def _largest_token(draw: Draw) -> int:
    return int(max(np.max(block) for windows in (draw.preview, draw.final) for block in windows.blocks))


def _embedding_rows(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return int(weight.shape[0])


def _incomplete(baseline: CheckpointFacts, subject: CheckpointFacts, declared: Sequence[Expectation]) -> str | None:
    tensors = subject.invariants["tensors"]
    for defect in subject.invariants["defects"]:
        if defect["kind"] not in BESIDE_WEIGHTS and defect["tensor"] not in tensors:
            return f"{defect['tensor']} cannot be read: {defect['reason']}"
    before = {
        "layers": baseline.invariants["config"].get("num_hidden_layers"),
        "experts": width_of(stated_sizes(baseline.invariants), "experts"),
    }
    wanted = {one.what: one.wanted(size) for one in declared if (size := before.get(one.what)) is not None}
    missing = missing_tensors(baseline.invariants, subject.invariants, wanted.get("layers"), wanted.get("experts"))
    if not missing:
        return None
    first = missing[0] if len(missing) == 1 else f"such as {missing[0]}"
    return f"the checkpoint lacks {counted(len(missing), 'tensor')} of its baseline: {first}"
