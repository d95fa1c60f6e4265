"""The files of a pack that is being built: written to its staging folder one by one, and read back when needed.

Example::

    with staging_folder(target) as staging, open_pack(staging) as folder:
        files = StagedFiles(folder)
        files.add("metadata/scenarios.json", data)
        files.document("metadata/scenarios.json")       # compared with the digest of what was written
        files.sync()

So a builder needs no more memory for a pack of ten thousand reports than for its largest file and the facts that a
verdict needs, and it derives the reports in several processes, as a verifier does.
"""

from __future__ import annotations

import os
from pathlib import PurePath

from invarlock.packer.format.checksums import check_path
from invarlock.packer.format.contents import SealedFiles
from invarlock.packer.format.pack_folder import PackFolder

from invarlock.digests import sha256_hex
from invarlock.jsonio import sync_folder


class StagedFiles(SealedFiles):
    """Files in a staging folder, each written once and synced."""

    def __init__(self, folder: PackFolder) -> None:
        self._written: dict[str, str] = {}
        super().__init__(folder, self._written)

    def add(self, path: str, data: bytes) -> None:
        """Write a file, and remember its digest.

        Raises:
            IntegrityError: when the path is unsafe.
            OSError: when the file cannot be written, or exists.
        """
        check_path(path)
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        self._written[path] = sha256_hex(data)

    def sync(self) -> None:
        """Sync the folders, so that the names of the files are on the disk too."""
        for inner in {parent for path in self._written for parent in PurePath(path).parents}:
            sync_folder(self.path / inner)
