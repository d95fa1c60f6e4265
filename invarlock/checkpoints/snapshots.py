"""Pinned snapshots: a model folder and its tokenizer as one folder with known digests.

Changing a snapshot does not change its source: files are cloned if the file system supports it (copy on write), and
copied otherwise. They are never hard links: subjects share files with their snapshot, so editing a kept subject in
place would change the hub's cache. Only a snapshot made of links points to its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from invarlock.catalog.pins import combine_digests
from invarlock.checkpoints.digests import digest_checkpoint, digest_file
from invarlock.checkpoints.layout import checkpoint_files, tokenizer_files
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.staging import clone_and_digest, copy_and_digest, staged
from invarlock.errors import CheckpointError

Storage = Literal["snapshot_copy", "snapshot_symlink"]


def make_snapshot(
    model_folder: Path,
    tokenizer_folder: Path | None,
    target: Path,
    expected_digest: str | None,
    storage: Storage = "snapshot_copy",
    code: Mapping[str, str] | None = None,
) -> str:
    """Make a checkpoint's snapshot in ``target``, completely or not at all, and return its digest.

    The digest covers the bytes that are copied, or those that the links point to. A target that already has these bytes
    is not changed.

    Args:
        model_folder: weights, config and, unless ``tokenizer_folder`` is given, tokenizer files.
        tokenizer_folder: the folder of the tokenizer files, if not ``model_folder``.
        target: the folder to make.
        expected_digest: the pinned digest ``sha256:<hex>``; None if there is no pin yet.
        code: the model's own code files, sha256 by name; they are copied but not part of the digest.
        storage: ``snapshot_copy``, or ``snapshot_symlink`` for links to the source's files.

    Raises:
        CheckpointError: when the source is not a complete checkpoint, or its digest or that of an existing target is
            not the expected one.
    """
    if target.is_dir() and expected_digest is not None:
        return _checked(target, digest_checkpoint(target), expected_digest, "remove it to make it anew")
    sources = snapshot_sources(model_folder, tokenizer_folder)
    if target.is_dir():
        wanted = combine_digests({name: digest_file(path) for name, path in sources.items()})
        return _checked(target, digest_checkpoint(target), wanted, "remove it to make it anew")
    place = _link_and_digest if storage == "snapshot_symlink" else clone_and_digest
    with staged([target]) as folders:
        digests = {name: place(path, folders[target] / name) for name, path in sources.items()}
        digest = combine_digests(digests)
        for name, sha256 in (code or {}).items():
            found = copy_and_digest(model_folder / name, folders[target] / name)
            if found != sha256:
                raise CheckpointError(f"{model_folder / name}: differs from the pinned file; fetch it again")
        if expected_digest is not None:
            _checked(model_folder, digest, expected_digest, "fetch the pinned revision, or correct the pin")
        read_checkpoint(folders[target])
    return digest


def snapshot_sources(model_folder: Path, tokenizer_folder: Path | None) -> dict[str, Path]:
    """Return the files of a snapshot, by name.

    Raises:
        CheckpointError: when the model is not a complete checkpoint, or there is no tokenizer.
    """
    sources = {name: model_folder / name for name in checkpoint_files(model_folder)}
    if tokenizer_folder is None:
        return sources
    tokenizer = tokenizer_files(tokenizer_folder)
    if not tokenizer:
        raise CheckpointError(f"{tokenizer_folder}: no tokenizer files; point at the folder of the tokenizer")
    for name in tokenizer_files(model_folder):
        del sources[name]
    return {**sources, **{name: tokenizer_folder / name for name in tokenizer}}


def _link_and_digest(source: Path, target: Path) -> str:
    real = source.resolve(strict=True)
    target.symlink_to(real)
    return digest_file(real)


def _checked(folder: Path, found: str, expected: str, advice: str) -> str:
    if found != expected:
        raise CheckpointError(f"{folder}: its digest is {found}, expected {expected}; {advice}")
    return found
