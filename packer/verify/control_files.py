"""The first two verification steps: the control files exist, and the manifest matches its schema."""

from __future__ import annotations

from dataclasses import dataclass, field

from invarlock.packer.format.checksums import CHECKSUMS_NAME, MANIFEST_NAME
from invarlock.packer.format.documents import Manifest
from invarlock.packer.format.limits import MAX_CHECKSUMS_BYTES, MAX_MANIFEST_BYTES
from invarlock.packer.format.manifest import read_manifest
from invarlock.packer.format.pack_folder import PackFolder

from invarlock.errors import IntegrityError, ManifestError, MissingFileError
from invarlock.problems import Problem

# The placeholder for a manifest that could not be read.
NO_MANIFEST: Manifest = {
    "format": "evidence-pack-v1",
    "checksums_sha256": "checksums.sha256",
    "checksums_sha256_digest": "",
}


@dataclass(frozen=True)
class ControlFiles:
    """The bytes of ``manifest.json`` and ``checksums.sha256``."""

    manifest: bytes = b""
    checksums: bytes = b""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class ManifestResult:
    """The document in ``manifest.json`` if it matches its schema, or ``NO_MANIFEST`` and the problems."""

    document: Manifest = field(default_factory=lambda: NO_MANIFEST)
    problems: tuple[Problem, ...] = ()


def read_control_files(folder: PackFolder) -> ControlFiles:
    """Return the unparsed control files, which every pack must have."""
    try:
        return ControlFiles(
            folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES), folder.read(CHECKSUMS_NAME, MAX_CHECKSUMS_BYTES)
        )
    except (MissingFileError, IntegrityError) as error:
        return ControlFiles(problems=error.problems)


def check_manifest(control: ControlFiles) -> ManifestResult:
    """Return the manifest of a pack; it is parsed strictly, before any other file of the pack."""
    try:
        return ManifestResult(read_manifest(control.manifest))
    except ManifestError as error:
        return ManifestResult(problems=error.problems)
