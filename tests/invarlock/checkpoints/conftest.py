"""Fixtures for a local hub that this process's client uses, and a file system with copy-on-write clones."""

from __future__ import annotations

import lzma
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import point_client_at
from hub_server import Hub, serve_hub

# An image made by ``truncate -s 16M`` and ``mkfs.btrfs --mixed``.
IMAGE = Path(__file__).parents[2] / "data" / "btrfs_16mb.img.xz"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub() as served:
        point_client_at(served, tmp_path / "cache", monkeypatch)
        yield served


@pytest.fixture
def cloning_folder(tmp_path: Path) -> Iterator[Path]:
    image, folder = tmp_path / "btrfs.img", tmp_path / "btrfs"
    image.write_bytes(lzma.decompress(IMAGE.read_bytes()))
    folder.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a Btrfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
