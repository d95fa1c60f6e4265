"""Reading ``manifest.json``: strictly, within bounds, and before anything else of a pack is parsed."""

from __future__ import annotations

from datetime import datetime

from invarlock.packer.format.checksums import MANIFEST_NAME
from invarlock.packer.format.documents import Manifest
from invarlock.packer.format.limits import MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES

from invarlock.errors import DocumentError, ManifestError
from invarlock.jsonio import check_schema, parse_json
from invarlock.problems import Code


def read_manifest(sealed: bytes) -> Manifest:
    """Return the document of ``manifest.json``, validated with its schema.

    Raises:
        ManifestError: when it is malformed.
    """
    try:
        manifest: Manifest = parse_json(
            sealed, where=MANIFEST_NAME, limit_bytes=MAX_MANIFEST_BYTES, limit_values=MAX_MANIFEST_VALUES
        )
        check_schema(manifest, "evidence_pack_manifest", where=MANIFEST_NAME)
        if "generated_at" in manifest:
            datetime.fromisoformat(manifest["generated_at"])
    except DocumentError as error:
        problems = [problem.coded(Code.MANIFEST_MALFORMED) for problem in error.problems]
        raise ManifestError(str(error), problems=problems) from None
    except ValueError:
        words = f"{manifest['generated_at']} is not a time such as 2026-01-31T12:00:00Z"
        raise ManifestError(words, where=MANIFEST_NAME, field="generated_at", code=Code.MANIFEST_MALFORMED) from None
    return manifest
