"""Users' own subjects: their files, the edit that made them, and how they differ from their baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from invarlock.catalog.edit_labels import CUSTOM, NOOP, SubjectEdit
from invarlock.catalog.pins import combine_digests
from invarlock.checkpoints.digests import digest_checkpoint, digest_file
from invarlock.checkpoints.formats.interface import Checkpoint
from invarlock.checkpoints.layout import checkpoint_files, checkpoint_folder, tokenizer_files
from invarlock.checkpoints.subject_edits import METADATA_NAME
from invarlock.errors import CheckpointError, DocumentError, UsageError
from invarlock.evaluation.request import EditDescription
from invarlock.problems import Code


def user_subject_files(folder: Path, baseline: Path) -> dict[str, Path]:
    """Return the files of a subject by name, with the baseline's tokenizer if it has none of its own.

    Raises:
        CheckpointError: when a file is missing.
    """
    where = checkpoint_folder(folder)
    files = {name: where / name for name in checkpoint_files(folder)}
    if not tokenizer_files(folder):
        files |= {name: baseline / name for name in tokenizer_files(baseline)}
    return files


def user_subject_digest(folder: Path, baseline: Path) -> str:
    """Return ``sha256:<hex>`` of a subject, including the tokenizer that is used to measure it."""
    return combine_digests({name: digest_file(path) for name, path in user_subject_files(folder, baseline).items()})


def link_user_subject(folder: Path, baseline: Path, target: Path) -> None:
    """Make a folder of links to the files of a subject, so that the folder can be removed safely.

    Raises:
        CheckpointError: when a file is missing, or a link cannot be made.
    """
    files = user_subject_files(folder, baseline)
    try:
        target.mkdir(parents=True)
        for name, path in files.items():
            (target / name).symlink_to(path.resolve())
    except OSError as error:
        raise CheckpointError(f"{target}: no link to {folder} can be made there ({error.strerror})") from None


def user_subject_edit(folder: Path, baseline: Path, edit: SubjectEdit) -> tuple[EditDescription, str | None]:
    """Return the description of a subject's edit for its report, and the edit's scope.

    Raises:
        DocumentError: when ``edit_metadata.json`` describes another baseline, or files that are not the subject's.
        UsageError: when the subject is labelled ``noop`` but differs from its baseline.
    """
    if edit.source == "edit_metadata" or edit.label == NOOP:
        _check_digests(folder, baseline, edit)
    if edit.label == NOOP:
        return EditDescription(NOOP, NOOP, NOOP, {}), None
    if edit.spec is None:
        return EditDescription(CUSTOM, edit.label, CUSTOM, {}, edit.source), None
    scope = None if edit.spec.scope is None else str(edit.spec.scope)
    return EditDescription(edit.spec.edit, edit.spec.edit, str(edit.spec), edit.spec.parameters), scope


def _check_digests(folder: Path, baseline: Path, edit: SubjectEdit) -> None:
    where, before, after = folder / METADATA_NAME, digest_checkpoint(baseline), user_subject_digest(folder, baseline)
    if edit.baseline_digest not in (None, before):
        raise DocumentError(
            f"its baseline_digest is not that of {baseline}; name that baseline, or the edit with --edit-label",
            code=Code.DOCUMENT_MALFORMED,
            where=str(where),
        )
    if edit.subject_digest not in (None, after):
        raise DocumentError(
            f"its subject_digest is not that of {folder}, which was changed since; remove the file, or name "
            "the edit with --edit-label",
            code=Code.DOCUMENT_MALFORMED,
            where=str(where),
        )
    if edit.label == NOOP and before != after:
        raise UsageError(
            f"{folder}: labelled noop, but differs from its baseline; name its edit with --edit-label",
            code=Code.EDIT_SPEC_INVALID,
        )


def unchanged(edited: EditDescription, subject_digest: str, baseline_digest: str) -> EditDescription:
    """Return ``noop`` for a subject that equals its baseline byte for byte, unless the user gave another label.

    Equal tensors with another config are a different model.
    """
    if subject_digest != baseline_digest or edited.name != CUSTOM or edited.label_source == "given":
        return edited
    return EditDescription(NOOP, NOOP, NOOP, {})


def changed_tensors(before: Checkpoint, after: Checkpoint) -> list[str]:
    """Return the subject's tensors that are missing or different in the baseline; packed ones as dense tensors."""
    changed = []
    for name in after.files.entries:
        if name not in before.files.entries or not torch.equal(_bytes(before, name), _bytes(after, name)):
            changed.append(name)
    return changed


def changed_parameters(before: Checkpoint, changed: Sequence[str]) -> int:
    """Return how many parameters of the baseline are in these tensors; it may lack some of them."""
    entries = [before.files.entries[name] for name in changed if name in before.files.entries]
    return sum(entry.elements for entry in entries if entry.is_float)


def _bytes(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    return checkpoint.read(name).contiguous().flatten().view(torch.uint8)
