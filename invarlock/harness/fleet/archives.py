"""Archives of files sent between the controller and a node, and checked by their digest.

Example::

    archive = pack_files(run, [run / "state/settings.json"])
    unpack(archive, folder)         # or an IntegrityError
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from invarlock.digests import sha256_hex
from invarlock.errors import IntegrityError
from invarlock.jsonio import write_bytes
from invarlock.problems import Code


@dataclass(frozen=True)
class Archive:
    """The bytes of an uncompressed tar archive, and their SHA-256."""

    data: bytes
    sha256: str


def pack_files(root: Path, paths: Iterable[Path]) -> Archive:
    """Return an archive of files, with their paths relative to ``root``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            archive.add(path, path.relative_to(root).as_posix(), recursive=False)
    data = buffer.getvalue()
    return Archive(data, sha256_hex(data))


def unpack(archive: Archive, folder: Path) -> list[str]:
    """Extract the files of an archive into a folder, and return their paths.

    Raises:
        IntegrityError: if the digest differs, or the archive has anything other than regular files inside the folder.
    """
    if sha256_hex(archive.data) != archive.sha256:
        raise IntegrityError("the archive of a piece changed on its way; run it again", code=Code.ARCHIVE_DAMAGED)
    names = []
    with tarfile.open(fileobj=io.BytesIO(archive.data), mode="r:") as files:
        for member in files:
            path = PurePosixPath(member.name)
            content = files.extractfile(member) if member.isreg() else None
            if content is None or path.is_absolute() or ".." in path.parts:
                raise IntegrityError(
                    "not a regular file of a run directory; the archive of a piece may only have those",
                    where=member.name,
                    code=Code.NOT_A_REGULAR_FILE,
                )
            write_bytes(folder / path, content.read())
            names.append(member.name)
    return names
