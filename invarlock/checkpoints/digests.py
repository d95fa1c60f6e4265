"""Digests of checkpoints: one line of text that identifies exact bytes.

Example::

    digest_checkpoint(Path("mistral-7b"))  # "sha256:6f0c…"

The digest is sha256 over the sorted lines ``<sha256 of file>␠␠<name>\\n``, which is what
``sha256sum config.json model.safetensors … | LC_ALL=C sort | sha256sum`` prints.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from invarlock.catalog.pins import combine_digests
from invarlock.checkpoints.layout import checkpoint_files, checkpoint_folder, tokenizer_files
from invarlock.errors import CheckpointError


def digest_checkpoint(folder: Path) -> str:
    """Return the digest of a checkpoint's weight, config and tokenizer files.

    Raises:
        CheckpointError: when weights or ``config.json`` are missing.
    """
    where = checkpoint_folder(folder)
    return combine_digests({name: digest_file(where / name) for name in checkpoint_files(folder)})


def tokenizer_digest(folder: Path) -> str:
    """Return the digest of a folder's tokenizer files alone.

    Raises:
        CheckpointError: when the folder has no tokenizer files.
    """
    names = tokenizer_files(folder)
    if not names:
        raise CheckpointError(f"{folder}: no tokenizer files; point at a folder with a tokenizer.json or its like")
    return combine_digests({name: digest_file(folder / name) for name in names})


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits.

    Raises:
        CheckpointError: when the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
