"""Applies edits to a checkpoint: several subjects are made in one pass over the baseline.

Example::

    spec = parse_edit_spec("quant_rtn:4:32:ffn")
    apply_edits(Path("baseline"), {Path("subject"): spec})
    # {Path("subject"): EditSummary(edited_tensors=96, edited_params=5637144576, …)}
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from invarlock.catalog.edit_specs import EditSpec
from invarlock.checkpoints.families import Module, tensors_in_scope
from invarlock.checkpoints.moving import MovedWeights
from invarlock.checkpoints.packing import pack_checkpoint
from invarlock.checkpoints.rewriting import (
    Make,
    Replacement,
    Rewrite,
    count_nonfinite,
    rewrite_checkpoint,
    rewrite_each,
)
from invarlock.checkpoints.safetensors_files import CheckpointFiles, read_checkpoint
from invarlock.edits import BY_NAME
from invarlock.errors import EditError

# Stored dtypes that a float32 computation can read and write back without losing precision.
EDITABLE_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class EditSummary:
    """The result of an edit, and its share of the seconds of its pass."""

    edited_tensors: int
    edited_params: int
    total_params: int
    seconds: float = field(compare=False)


def apply_edits(baseline: Path, subjects: Mapping[Path, EditSpec]) -> dict[Path, EditSummary]:
    """Make a subject checkpoint for each spec, all in one pass; all of them appear, or none.

    ``noop`` gives the same bytes. Tensors outside an edit's scope, the config and the tokenizer are the baseline's.
    Files without any change are hard links. A tied head stays tied, because embeddings are never edited.

    Args:
        baseline: folder of the checkpoint, with finite weights.
        subjects: the edit of each subject, by the folder to make.

    Raises:
        EditError: when a scope selects no tensors, a weight has a dtype that cannot be edited, or an edit would make a
            weight non-finite.
        CheckpointError: when the baseline is malformed or not finite, or a target folder exists.
    """
    started = time.perf_counter()
    files = read_checkpoint(baseline)
    rewrites = {subject: _rewrite(files, spec) for subject, spec in subjects.items()}
    return _summarise(files, rewrites, rewrite_checkpoint(files, rewrites), started)


def apply_each_edit(baseline: Path, subjects: Mapping[Path, EditSpec]) -> dict[Path, EditSummary | EditError]:
    """Make subjects in one pass; an edit that cannot be applied returns its error and does not stop the others.

    A subject appears completely or not at all, with the bytes that a separate pass would give it.

    Raises:
        CheckpointError: when the baseline is malformed or not finite, or a target folder exists; then no subject
            appears.
    """
    started = time.perf_counter()
    files = read_checkpoint(baseline)
    rewrites: dict[Path, Rewrite] = {}
    refused: dict[Path, EditError] = {}
    for subject, spec in subjects.items():
        try:
            rewrites[subject] = _rewrite(files, spec)
        except EditError as error:
            refused[subject] = error
    seconds: dict[Path, float] = {}
    for subject, outcome in rewrite_each(files, rewrites).items():
        if isinstance(outcome, EditError):
            refused[subject] = outcome
        else:
            seconds[subject] = outcome
    return {**_summarise(files, rewrites, seconds, started), **refused}


def edit_tensor(weight: torch.Tensor, module: Module, spec: EditSpec) -> torch.Tensor:
    """Return the edited tensor: each matrix is edited as (out, in), and each expert of a stack separately."""
    edit = BY_NAME[spec.edit].apply

    def apply(matrix: torch.Tensor) -> torch.Tensor:
        if module.transposed:
            return edit(matrix.T.contiguous(), spec.parameters).T.contiguous()
        return edit(matrix, spec.parameters)

    if module.experts:
        edited = torch.empty_like(weight)
        for expert, matrix in enumerate(weight):
            edited[expert] = apply(matrix)
        return edited
    return apply(weight)


def _rewrite(files: CheckpointFiles, spec: EditSpec) -> Rewrite:
    """Return the replacements of an edit.

    Raises:
        EditError: when its scope selects no tensors, or a tensor that cannot be edited.
    """
    edit = BY_NAME[spec.edit]
    if edit.move is not None:
        moved = MovedWeights(files)
        edit.move(moved)
        rewrite = moved.rewrite(lambda matrix: edit.apply(matrix, spec.parameters))
    elif edit.packing is not None:
        rewrite = pack_checkpoint(files, edit.packing, spec.parameters)
    elif spec.scope is None:
        return Rewrite()
    else:
        taken = tensors_in_scope(files.model_type, files.shapes, spec.scope, where=str(files.folder))
        rewrite = Rewrite({name: Replacement(name, _editing(module, spec)) for name, module in taken.items()})
    for replacement in rewrite.tensors.values():
        dtype = files.entries[replacement.source].dtype
        if dtype not in EDITABLE_DTYPES:
            raise EditError(
                f"{files.folder}: {spec} cannot edit {replacement.source!r}, which is stored as {dtype}; use a "
                f"checkpoint in {', '.join(EDITABLE_DTYPES)}"
            )
    checked = {
        name: replace(made, make=_checked(files, spec, name, made.make)) for name, made in rewrite.tensors.items()
    }
    return replace(rewrite, tensors=checked)


def _editing(module: Module, spec: EditSpec) -> Make:
    return lambda weight: edit_tensor(weight, module, spec)


def _checked(files: CheckpointFiles, spec: EditSpec, name: str, make: Make) -> Make:
    def make_finite(weight: torch.Tensor) -> torch.Tensor:
        try:
            edited = make(weight)
        except torch.linalg.LinAlgError as error:
            raise EditError(f"{files.folder}: {spec} cannot edit {name!r} ({error}); use another edit") from None
        if count_nonfinite(edited):
            raise EditError(f"{files.folder}: {spec} makes {name!r} non-finite; use another edit or a wider dtype")
        return edited

    return make_finite


def _summarise(
    files: CheckpointFiles, rewrites: Mapping[Path, Rewrite], seconds: Mapping[Path, float], started: float
) -> dict[Path, EditSummary]:
    """Return the summary of each edit: its own seconds, and an equal part of the seconds shared by all edits."""
    common = time.perf_counter() - started - sum(seconds.values())
    sources = {subject: {one.source for one in rewrites[subject].tensors.values()} for subject in seconds}
    return {
        subject: EditSummary(
            edited_tensors=len(rewrites[subject].changed()),
            edited_params=sum(files.entries[name].elements for name in sources[subject]),
            total_params=files.total_parameters,
            seconds=own + common / len(seconds),
        )
        for subject, own in seconds.items()
    }
