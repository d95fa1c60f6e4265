"""Looking into a pack without verifying its reports: what it holds and what it claims."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from invarlock.packer import layout
from invarlock.packer.checksums import CHECKSUMS_NAME, CONTROL_FILES, MANIFEST_NAME, SIGNATURE_NAME, read_checksums
from invarlock.packer.layout import beside, is_report
from invarlock.packer.pack_folder import open_pack
from invarlock.packer.signature import verify_manifest
from invarlock.packer.verify import MAX_CHECKSUMS_BYTES, MAX_FILE_BYTES, MAX_MANIFEST_BYTES

from invarlock.errors import DocumentError, IntegrityError, ManifestError, MissingFileError, SignatureError
from invarlock.jsonio import check_schema, parse_json


def inspect_pack(path: Path) -> dict[str, Any]:
    """Return a summary of a pack: manifest, signature, checksum coverage, reports, sizes, verdict as claimed.

    Raises:
        MissingFileError: when there is no pack, manifest or checksum file.
        ManifestError: when the manifest is malformed.
        IntegrityError: when the checksum file is.
    """
    with open_pack(path) as folder:
        sealed = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        checksums = folder.read(CHECKSUMS_NAME, MAX_CHECKSUMS_BYTES)
        try:
            manifest = parse_json(sealed, where=MANIFEST_NAME)
            check_schema(manifest, "manifest", where=MANIFEST_NAME)
        except DocumentError as error:
            raise ManifestError(str(error)) from None
        signer, signature = None, "valid"
        try:
            signer = verify_manifest(sealed, folder.read(SIGNATURE_NAME, MAX_MANIFEST_BYTES))
        except MissingFileError:
            signature = "missing"
        except SignatureError as error:
            signature = f"invalid: {error}"
        listing = folder.listing()
        promised = read_checksums(checksums)
        reports = sorted(name for name in listing.sizes if is_report(name))
        claimed = None
        if layout.VERDICT_JSON in listing.sizes:
            try:
                document = parse_json(folder.read(layout.VERDICT_JSON, MAX_FILE_BYTES), where=layout.VERDICT_JSON)
                claimed = document.get("verdict") if isinstance(document, dict) else None
            except (DocumentError, IntegrityError):
                claimed = "unreadable"
    uncovered = sorted(set(listing.sizes) - set(promised) - CONTROL_FILES)
    return {
        "pack": str(path),
        "manifest": {key: manifest.get(key) for key in ("format", "generated_at", "suite", "invarlock_version")},
        "evidence_level_claimed": manifest.get("evidence_level"),
        "signature": signature,
        "signer_fingerprint": signer,
        "verdict_claimed": claimed,
        "verified": False,
        "checksums": {
            "digest_ok": hashlib.sha256(checksums).hexdigest() == manifest["checksums_sha256_digest"].lower(),
            "files": len(promised),
            "missing": sorted(set(promised) - set(listing.sizes)),
            "uncovered": uncovered,
        },
        "unsafe": listing.problems,
        "reports": {
            "total": len(reports),
            "errors": sum("/errors/" in name for name in reports),
            "with_runtime_manifest": sum(beside(name, layout.RUNTIME_MANIFEST) in listing.sizes for name in reports),
        },
        "provenance": {
            "source_repo": layout.SOURCE_REPO in listing.sizes,
            "environment": layout.ENVIRONMENT in listing.sizes,
        },
        "bytes": sum(listing.sizes.values()),
    }
