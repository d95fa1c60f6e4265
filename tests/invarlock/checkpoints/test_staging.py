"""Copies that share their blocks, on a real filesystem that clones: a Btrfs of 16 MB in a file, mounted by the test."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from invarlock.checkpoints.staging import clone_and_digest

# Of the 16 MB some 11 are free: a second copy has no room.
LARGE_BYTES = 7_000_000


def test_a_clone_takes_no_disk_space_and_shares_no_change(cloning_folder: Path, tmp_path: Path) -> None:
    data = os.urandom(LARGE_BYTES)
    source, target = cloning_folder / "model.safetensors", cloning_folder / "snapshot"
    source.write_bytes(data)

    digest = clone_and_digest(source, target)

    assert digest == hashlib.sha256(data).hexdigest()
    assert (target.stat().st_ino == source.stat().st_ino, target.stat().st_blocks) == (False, source.stat().st_blocks)
    with pytest.raises(OSError, match="No space left on device"):
        (cloning_folder / "copy").write_bytes(data)
    (cloning_folder / "copy").unlink()
    with target.open("r+b") as stream:
        stream.write(b"changed")
    assert source.read_bytes() == data
    assert target.read_bytes() == b"changed" + data[7:]


def test_where_nothing_clones_the_bytes_are_copied(cloning_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    source.write_bytes(b"weights" * 1000)

    digest = clone_and_digest(source, cloning_folder / "snapshot")

    assert digest == hashlib.sha256(b"weights" * 1000).hexdigest()
    assert (cloning_folder / "snapshot").read_bytes() == b"weights" * 1000
