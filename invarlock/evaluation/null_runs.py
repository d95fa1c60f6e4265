"""Null runs: the measurements of a model's guards when nothing is wrong.

A null run takes one draw of windows and compares the baseline with harmless changes of itself on these windows.
Runs differ in their draw and in the seed of the jitter. Presets are derived from the documents of null runs.

Example::

    draws = null_draws(snapshot, setup, [1, 2])
    document = measure_null_run(snapshot, setup, 1, draws[1], Path("nulls"))
    document["changes"][0]["name"]     # "float16_round_trip"
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.catalog.models import WindowCounts
from invarlock.checkpoints.editing import edit_tensor
from invarlock.checkpoints.families import Module, matrices
from invarlock.checkpoints.rewriting import Replacement, Rewrite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import CheckpointFiles, read_checkpoint
from invarlock.documents import JsonObject
from invarlock.errors import EvaluationError
from invarlock.evaluation.activations import ACTIVATION_CONTRACTS, ActivationFacts
from invarlock.evaluation.checkpoint_facts import WEIGHT_CONTRACTS, CheckpointFacts
from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline, window_columns
from invarlock.evaluation.kept_tokens import kept_file
from invarlock.evaluation.measurements import Comparison, KnownBaseline, Reference, ScoredDraw, SubjectMeasurement
from invarlock.evaluation.request import Setup
from invarlock.evaluation.scoring import Scores
from invarlock.evaluation.windows import Draw
from invarlock.guards import GUARDS
from invarlock.jsonio import check_schema
from invarlock.problems import Code
from invarlock.reports.documents import NullRunDocument
from invarlock.reports.null_runs import (
    CHANGES,
    FLOAT16,
    JITTER,
    JITTER_SHARE,
    NULL_SEED,
    NULL_WINDOWS,
    RTN_SPEC,
    SCHEMA,
)
from invarlock.reports.policy import resolve_policy

# The guards that are measured in a null run.
_IN_NULL_RUNS = tuple(guard for guard in GUARDS if guard.null is not None)

Change = Callable[[torch.Tensor, Module], torch.Tensor]


def measure_null_run(
    snapshot: Path,
    setup: Setup,
    run: int,
    draw: Draw,
    workspace: Path,
    known: KnownBaseline | None = None,
) -> NullRunDocument:
    """Return the document of a null run; its checkpoints are made in ``workspace`` and removed afterwards.

    Args:
        snapshot: the baseline's checkpoint.
        setup: the setup of the model.
        run: the number of the run, from 1; it decides the seed.
        draw: the run's windows, from ``null_draws``.
        workspace: a folder for the changed checkpoints; it is removed at the end.
        known: the digests and facts of the baseline's files and weights.

    Raises:
        EvaluationError: when the text is too short, or a changed model cannot be loaded or scored.
        CheckpointError: when the baseline is not a complete checkpoint.
    """
    files = read_checkpoint(snapshot)
    seed = setup.plan.window_seed(NULL_SEED + run)
    changes = []
    try:
        baseline = measure_baseline(
            snapshot, {run: draw}, setup.plan, setup.placement, kept=workspace, probe=True, known=known
        )
        own = baseline.draws[run]
        assert own.probe is not None
        kept, vocabulary = kept_file(workspace, run), own.fidelity["vocabulary"]
        against = Reference(snapshot, kept, vocabulary, baseline.facts, own.activations.variance, own.probe.variance)
        limits = resolve_policy(setup.context["tier"], setup.context["profile"], {})["variance"]
        comparison = Comparison(against, draw, setup.plan, setup.placement, limits)
        for index, name in enumerate(CHANGES):
            subject = workspace / f"change_{index}"
            shutil.rmtree(subject, ignore_errors=True)
            rewrite_checkpoint(files, {subject: null_rewrite(name, files, seed)})
            measured = compare(subject, comparison)
            shutil.rmtree(subject)
            changes.append(_change_block(name, measured))
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    document = {
        "schema": SCHEMA,
        "run": run,
        "seeds": {"windows": draw.seed, "changes": seed},
        "meta": setup.meta(),
        "baseline": {"digest": baseline.digest, "tokenizer_sha256": baseline.tokenizer_sha256},
        "dataset": setup.dataset(baseline.tokenizer_sha256, baseline.prefix_token_ids),
        "measurement_contracts": null_contracts(),
        **_baseline_block(own, baseline.facts),
        "changes": changes,
    }
    check_schema(document, "null_run", where=f"null run {run} of {setup.model_id}")
    return cast("NullRunDocument", document)


def null_contracts() -> dict[str, JsonObject]:
    """Return how the numbers of each guard in a null run are measured."""
    contracts = {**WEIGHT_CONTRACTS, **ACTIVATION_CONTRACTS}
    return {guard.name: dict(contracts[guard.name]) for guard in _IN_NULL_RUNS}


def null_draws(snapshot: Path, setup: Setup, runs: Sequence[int]) -> dict[int, Draw]:
    """Return the windows of some null runs by run number; the text is tokenised once.

    There are no preview windows, because they only show drift, from which no limit is learned, and at most
    ``NULL_WINDOWS`` final windows of each text.

    Raises:
        EvaluationError: when the tokenizer cannot be loaded or the text is too short.
    """

    slices = {
        name: WindowCounts(own.seq_len, preview=0, final=min(own.final, NULL_WINDOWS))
        for name, own in setup.plan.slices.items()
    }
    plan = replace(setup.plan, preview=0, final=min(setup.plan.final, NULL_WINDOWS), slices=slices)
    draws = draw_runs(snapshot, setup.text, plan, [NULL_SEED + run for run in runs])
    return {run: draws[NULL_SEED + run] for run in runs}


def null_rewrite(name: str, files: CheckpointFiles, seed: int) -> Rewrite:
    """Return the rewrite that applies a harmless change to every matrix of attention and FFN."""
    known = matrices(files.model_type, files.shapes)
    change = _CHANGES[name]

    def replacement(tensor_name: str, module: Module) -> Replacement:
        # each matrix has its own random stream, so the order in which tensors are read does not matter
        own = zlib.crc32(f"{seed}/{tensor_name}".encode())
        return Replacement(tensor_name, lambda weight: change(weight, module, own))

    return Rewrite({tensor_name: replacement(tensor_name, module) for tensor_name, module in known.items()})


def _through_float16(weight: torch.Tensor, module: Module, seed: int) -> torch.Tensor:
    limit = torch.finfo(torch.float16).max
    return weight.float().clamp(-limit, limit).half().to(weight.dtype)


def _rounded_to_8_bits(weight: torch.Tensor, module: Module, seed: int) -> torch.Tensor:
    spec = parse_edit_spec(RTN_SPEC)
    assert isinstance(spec, EditSpec)
    return edit_tensor(weight, module, spec)


def _jittered(weight: torch.Tensor, module: Module, seed: int) -> torch.Tensor:
    """Add Gaussian noise, scaled to a share of the standard deviation of the matrix (or of each expert's matrix)."""
    generator = torch.Generator().manual_seed(seed)
    values = weight.float()
    deviation = values.std(dim=(-2, -1), keepdim=True)
    noise = torch.randn(values.shape, generator=generator)
    return (values + JITTER_SHARE * deviation * noise).to(weight.dtype)


_CHANGES: Mapping[str, Callable[[torch.Tensor, Module, int], torch.Tensor]] = {
    FLOAT16: _through_float16,
    RTN_SPEC: _rounded_to_8_bits,
    JITTER: _jittered,
}


def _baseline_block(own: ScoredDraw, facts: CheckpointFacts) -> JsonObject:
    assert own.probe is not None
    sides = {**facts.by_guard, **asdict(own.activations)}
    return {
        "windows": window_columns(own.draw, own.preview, own.final, "logloss"),
        "fidelity": dict(own.fidelity),
        **_guard_blocks(sides, own.probe),
    }


def _guard_blocks(sides: Mapping[str, Any], probe: ActivationFacts) -> JsonObject:
    """Return one side's measurements of the null runs' guards, with those over the probe's windows."""
    probed = asdict(probe)
    blocks = {guard.name: sides[guard.name] for guard in _IN_NULL_RUNS}
    for guard in _IN_NULL_RUNS:
        if guard.probe is not None and guard.probe.in_null_runs:
            blocks[guard.probe.name] = probed[guard.name]
    return blocks


def _change_block(name: str, measured: SubjectMeasurement) -> JsonObject:
    if measured.preview is None or measured.final is None:
        raise EvaluationError(
            f"null run: {name} of the baseline could not be scored ({measured.not_scored})",
            code=Code.NULL_RUNS_UNUSABLE,
        )
    sides = {**measured.facts.by_guard, **measured.activations.by_guard(_losses(measured.scaled))}
    return {
        "name": name,
        "digest": measured.digest,
        "logloss": {"preview": list(measured.preview.losses), "final": list(measured.final.losses)},
        "weight_changes": measured.facts.changes,
        "fidelity": measured.fidelity,
        **_guard_blocks(sides, measured.probe),
    }


def _losses(scores: Scores | None) -> list[float | None] | None:
    return None if scores is None else list(scores.losses)
