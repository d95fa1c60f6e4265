"""Pinned snapshots: a model folder and its tokenizer as one folder whose bytes are known."""

from __future__ import annotations

from pathlib import Path

from invarlock.catalog.pins import combine_digests
from invarlock.checkpoints.digests import digest_checkpoint, digest_file
from invarlock.checkpoints.layout import checkpoint_files, tokenizer_files
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.checkpoints.staging import copy_and_digest, staged
from invarlock.errors import CheckpointError


def make_snapshot(model_folder: Path, tokenizer_folder: Path | None, target: Path, expected_digest: str | None) -> str:
    """Copy a checkpoint into ``target``, whole or not at all, and return its digest.

    The digest is taken over the bytes as they are copied. A target that holds these bytes already is left as it is.

    Args:
        model_folder: weights, config and, unless ``tokenizer_folder`` is given, tokenizer files.
        tokenizer_folder: where the tokenizer files come from instead.
        target: the folder to make.
        expected_digest: ``sha256:<hex>``, the pin; None where there is none yet.

    Raises:
        CheckpointError: when the source is no whole checkpoint, or its digest or that of a target already there is
            not the expected one.
    """
    if target.is_dir() and expected_digest is not None:
        return _checked(target, digest_checkpoint(target), expected_digest, "remove it to make it anew")
    sources = _sources(model_folder, tokenizer_folder)
    if target.is_dir():
        wanted = combine_digests({name: digest_file(path) for name, path in sources.items()})
        return _checked(target, digest_checkpoint(target), wanted, "remove it to make it anew")
    with staged([target]) as folders:
        digests = {name: copy_and_digest(path, folders[target] / name) for name, path in sources.items()}
        digest = combine_digests(digests)
        if expected_digest is not None:
            _checked(model_folder, digest, expected_digest, "fetch the pinned revision, or correct the pin")
        read_checkpoint(folders[target])
    return digest


def _sources(model_folder: Path, tokenizer_folder: Path | None) -> dict[str, Path]:
    sources = {name: model_folder / name for name in checkpoint_files(model_folder)}
    if tokenizer_folder is None:
        return sources
    tokenizer = tokenizer_files(tokenizer_folder)
    if not tokenizer:
        raise CheckpointError(f"{tokenizer_folder}: no tokenizer files; point at the folder of the tokenizer")
    for name in tokenizer_files(model_folder):
        del sources[name]
    return {**sources, **{name: tokenizer_folder / name for name in tokenizer}}


def _checked(folder: Path, found: str, expected: str, advice: str) -> str:
    if found != expected:
        raise CheckpointError(f"{folder}: its digest is {found}, expected {expected}; {advice}")
    return found
