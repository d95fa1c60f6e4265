"""The verification step that compares the files of a pack with their checksums and finds unsealed files.

This step overlaps with the next three, because each file is read once and documents are parsed from the same bytes that
were hashed. ``open_sealed`` runs the first checks; ``close_sealed`` hashes the files that were not read in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from invarlock.packer.format import layout
from invarlock.packer.format.checksums import (
    ATTRIBUTES,
    ATTRIBUTES_NAME,
    CHECKSUMS_NAME,
    CONTROL_FILES,
    LINE_ENDS,
    read_checksums,
    with_line_ends_restored,
)
from invarlock.packer.format.contents import SealedFiles
from invarlock.packer.format.limits import MAX_MANIFEST_BYTES, MAX_PROBLEMS, THREADED_BYTES
from invarlock.packer.format.pack_folder import Listing, PackFolder
from invarlock.packer.format.references import reference_problems
from invarlock.packer.verify.control_files import ControlFiles, ManifestResult
from invarlock.packer.verify.options import StartProgress

from invarlock.digests import sha256_hex
from invarlock.errors import IntegrityError
from invarlock.problems import Code, Problem


@dataclass(frozen=True)
class SealedPack:
    """The files of a pack with their sealed digests; ``warnings`` list files that are not sealed."""

    files: SealedFiles
    listing: Listing
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def open_sealed(
    folder: PackFolder, control: ControlFiles, manifest: ManifestResult, *, strict: bool, start: StartProgress | None
) -> SealedPack:
    """Return the files of a pack and start hashing the large ones; the caller must call ``close_sealed`` at the end.

    Args:
        folder: the open pack.
        control: the pack's control files.
        manifest: the pack's manifest.
        strict: whether a file without a checksum is a problem instead of a warning.
        start: called with the size of the pack in bytes; returns the function to call with the bytes done.

    Raises:
        IntegrityError: when the checksum file does not match the manifest or is malformed; without it, no file
            can be checked.
    """
    _check_digest(control.checksums, manifest.document["checksums_sha256_digest"].lower())
    digests = read_checksums(control.checksums)
    listing = folder.listing()
    uncovered = _uncovered(listing, digests)
    # an unsealed page is always a problem: people read pages first, and an unsealed page could claim anything
    failing = [problem for problem in uncovered if strict or layout.is_page(problem.where)]
    problems = [*listing.problems, *failing, *_attributes_problems(folder, listing)]
    problems += reference_problems(manifest.document, digests)
    files = SealedFiles(folder, digests, start(listing.total_bytes) if start else None)
    files.hash_ahead(_large(listing, digests))
    warnings = [str(problem) for problem in uncovered if problem not in failing][:MAX_PROBLEMS]
    return SealedPack(files, listing, tuple(problems), tuple(warnings))


def close_sealed(folder: PackFolder, sealed: SealedPack) -> tuple[Problem, ...]:
    """Hash every file that was not read yet, and return all integrity problems of the pack."""
    return (*sealed.problems, *sealed.files.finish(), *folder.changes(sealed.listing))


def _check_digest(checksums: bytes, promised: str) -> None:
    if sha256_hex(checksums) == promised:
        return
    restored = with_line_ends_restored(checksums)
    if restored is not None and sha256_hex(restored) == promised:
        raise IntegrityError(LINE_ENDS, where=CHECKSUMS_NAME, code=Code.LINE_ENDS_CHANGED)
    words = "does not match checksums_sha256_digest of the manifest"
    raise IntegrityError(words, where=CHECKSUMS_NAME, code=Code.CHECKSUMS_DIGEST_DIFFERS)


def _uncovered(listing: Listing, digests: Mapping[str, str]) -> list[Problem]:
    """Return the files that have no checksum."""
    return [
        Problem(Code.FILE_NOT_SEALED, path, "", f"not in {CHECKSUMS_NAME}")
        for path in sorted(set(listing.files) - set(digests) - CONTROL_FILES)
    ]


def _attributes_problems(folder: PackFolder, listing: Listing) -> list[Problem]:
    if ATTRIBUTES_NAME not in listing.files or folder.read(ATTRIBUTES_NAME, MAX_MANIFEST_BYTES) == ATTRIBUTES:
        return []
    words = f"must contain exactly {ATTRIBUTES.decode().strip()!r}"
    return [Problem(Code.ATTRIBUTES_DIFFER, ATTRIBUTES_NAME, "", words)]


def _large(listing: Listing, digests: Mapping[str, str]) -> list[str]:
    """Return the large files that are only hashed, never read for their content."""
    return [
        path
        for path, (size, *_) in listing.files.items()
        if size >= THREADED_BYTES and path in digests and not layout.is_read(path)
    ]
