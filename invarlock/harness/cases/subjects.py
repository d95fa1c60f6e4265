"""Making the subject of a case from the baseline's snapshot, by an edit or a fault."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.catalog.cases import Case
from invarlock.catalog.scenarios import DeployableGeneration, EditGeneration, UserSubjectGeneration
from invarlock.catalog.tuned_params import TunedParams
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.deployables.artifacts import make_artifact
from invarlock.documents.reports import TaskRecordsDocument
from invarlock.evaluation.models import Placement
from invarlock.evaluation.user_subjects import (
    changed_parameters,
    changed_tensors,
    link_user_subject,
    user_subject_digest,
    user_subject_edit,
)
from invarlock.faults.injection import inject_fault
from invarlock.harness.cases.edit_batches import EditBatches
from invarlock.task_records.importing import find_task_records


@dataclass(frozen=True)
class MadeSubject:
    """How a subject was made, for its report and its ``edit_metadata.json``.

    ``packed_as`` is the format in which a backend stores the weights, None for the baseline's format. ``label_source``
    is the origin of the label of a user's subject. ``kept`` is true if the checkpoint stays in the run directory.
    """

    name: str
    label: str
    spec: str
    scope: str | None
    parameters: Mapping[str, Any]
    edited_tensors: int
    edited_params: int
    total_params: int
    seconds: float
    packed_as: str | None = None
    label_source: str | None = None
    kept: bool = False
    expected: tuple[str, ...] = ()


def subject_spec(case: Case, tuned: TunedParams) -> str:
    """Return the specification of a case's edit or fault in the form used in its report."""
    generation = case.scenario.generation
    if isinstance(generation, EditGeneration):
        return str(tuned.resolve(generation.for_model(case.model.id), case.model.id))
    if isinstance(generation, UserSubjectGeneration):
        return generation.spec
    return str(generation.spec) if isinstance(generation, DeployableGeneration) else generation.error_type


def subject_digest(case: Case, snapshot: Path) -> str | None:
    """Return the current digest of a user's subject; None for a subject that the run makes."""
    generation = case.scenario.generation
    return user_subject_digest(generation.folder, snapshot) if isinstance(generation, UserSubjectGeneration) else None


def subject_records(case: Case) -> TaskRecordsDocument | None:
    """Return the task results in the folder of a user's subject, or None if it has none.

    Raises:
        DocumentError: if the task results are malformed.
    """
    generation = case.scenario.generation
    return find_task_records(generation.folder) if isinstance(generation, UserSubjectGeneration) else None


def make_subject(  # noqa: PLR0913  # the last one is optional
    case: Case,
    tuned: TunedParams,
    edits: EditBatches,
    snapshot: Path,
    subject: Path,
    placement: Placement,
    *,
    alone: bool = False,
) -> MadeSubject:
    """Make a case's subject in a new folder, which appears complete or not at all.

    Args:
        case: the case.
        tuned: the tuned parameters of clean edits.
        edits: makes edited subjects, several in one pass.
        snapshot: the baseline's folder.
        subject: the folder to make.
        placement: the devices on which a backend packs a deployable subject.
        alone: whether no further subjects are prepared in the same pass.

    Raises:
        EditError: if the edit or fault cannot be applied to the model.
        CheckpointError: if writing fails.
        EvaluationError: if the backend cannot load the checkpoint that it is to pack.
    """
    started = time.perf_counter()
    generation = case.scenario.generation
    if isinstance(generation, EditGeneration):
        spec = tuned.resolve(generation.for_model(case.model.id), case.model.id)
        edited = edits.make(case, snapshot, subject, alone=alone)
        return MadeSubject(
            name=spec.edit,
            label=spec.edit,
            spec=str(spec),
            scope=None if spec.scope is None else str(spec.scope),
            parameters=spec.parameters,
            edited_tensors=edited.edited_tensors,
            edited_params=edited.edited_params,
            total_params=edited.total_params,
            seconds=edited.seconds,
        )
    if isinstance(generation, DeployableGeneration):
        packed = make_artifact(snapshot, subject, generation.spec, placement)
        return MadeSubject(
            name=generation.spec.backend,
            label=generation.spec.backend,
            spec=str(generation.spec),
            scope=str(generation.spec.scope),
            parameters=generation.spec.parameters,
            edited_tensors=packed.matrices,
            edited_params=packed.parameters,
            total_params=packed.total_parameters,
            seconds=time.perf_counter() - started,
            packed_as=packed.storage_format,
        )
    if isinstance(generation, UserSubjectGeneration):
        return _bring(generation, snapshot, subject, started)
    fault = inject_fault(generation.error_type, snapshot, subject, generation.for_model(case.model.id))
    before, after = read_checkpoint(snapshot), read_checkpoint(subject).entries
    changed = [after.get(name) or before.entries[name] for name in fault.changed_tensors]
    return MadeSubject(
        name=fault.error_type,
        label=fault.error_type,
        spec=fault.error_type,
        scope=None,
        parameters=fault.parameters_used,
        edited_tensors=len(fault.changed_tensors),
        edited_params=sum(entry.elements for entry in changed),
        total_params=before.total_parameters,
        seconds=time.perf_counter() - started,
    )


def _bring(generation: UserSubjectGeneration, snapshot: Path, subject: Path, started: float) -> MadeSubject:
    edited, scope = user_subject_edit(generation.folder, snapshot, generation.edit)
    link_user_subject(generation.folder, snapshot, subject)
    before, after = open_checkpoint(snapshot), open_checkpoint(subject, snapshot)
    changed = changed_tensors(before, after)
    return MadeSubject(
        name=edited.name,
        label=edited.label,
        spec=edited.spec,
        scope=scope,
        parameters=edited.parameters,
        edited_tensors=len(changed),
        edited_params=changed_parameters(before, changed),
        total_params=before.files.total_parameters,
        seconds=time.perf_counter() - started,
        label_source=edited.label_source,
        expected=generation.expected,
    )
