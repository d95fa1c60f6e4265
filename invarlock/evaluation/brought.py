"""Checkpoints that somebody brings as subjects: what they are made of, and where they differ from their baseline."""

from __future__ import annotations

from pathlib import Path

import torch

from invarlock.catalog.pins import combine_digests
from invarlock.checkpoints.digests import digest_file
from invarlock.checkpoints.formats.interface import Checkpoint
from invarlock.checkpoints.layout import checkpoint_files, tokenizer_files
from invarlock.errors import CheckpointError


def brought_files(folder: Path, baseline: Path) -> dict[str, Path]:
    """Return the files of a subject by name; one without a tokenizer has its baseline's.

    Raises:
        CheckpointError: when a file is missing.
    """
    files = {name: folder / name for name in checkpoint_files(folder)}
    if not tokenizer_files(folder):
        files |= {name: baseline / name for name in tokenizer_files(baseline)}
    return files


def brought_digest(folder: Path, baseline: Path) -> str:
    """Return ``sha256:<hex>`` of a subject as it is measured."""
    return combine_digests({name: digest_file(path) for name, path in brought_files(folder, baseline).items()})


def link_brought(folder: Path, baseline: Path, target: Path) -> None:
    """Make a folder of links to the files of a subject: removing it removes none of them.

    Raises:
        CheckpointError: when a file is missing, or the disk refuses.
    """
    files = brought_files(folder, baseline)
    try:
        target.mkdir(parents=True)
        for name, path in files.items():
            (target / name).symlink_to(path.resolve())
    except OSError as error:
        raise CheckpointError(f"{target}: no link to {folder} can be made there ({error.strerror})") from None


def changed_tensors(before: Checkpoint, after: Checkpoint) -> list[str]:
    """Return the subject's tensors that the baseline has not, or has with other bytes; packed ones as dense tensors."""
    changed = []
    for name in after.files.entries:
        if name not in before.files.entries or not torch.equal(_bytes(before, name), _bytes(after, name)):
            changed.append(name)
    return changed


def _bytes(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    return checkpoint.read(name).contiguous().flatten().view(torch.uint8)
