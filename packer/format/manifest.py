"""Reading ``manifest.json`` strictly and within bounds, before any other file of a pack is parsed."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from invarlock.packer.format.checksums import MANIFEST_NAME
from invarlock.packer.format.documents import Manifest
from invarlock.packer.format.limits import MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES

from invarlock import __version__
from invarlock.errors import DocumentError, ManifestError
from invarlock.jsonio import check_schema, parse_json
from invarlock.problems import Code

# The formats that this version verifies. A pack's format determines how all of its files are derived and rendered:
# decision 0013.
FORMATS = ("evidence-pack-v1",)
_ANY_FORMAT = re.compile(r"evidence-pack-v[1-9][0-9]{0,3}")


def read_manifest(sealed: bytes) -> Manifest:
    """Return the document in ``manifest.json``, validated with its schema.

    Raises:
        ManifestError: when it is malformed, or has a format that only later versions support.
    """
    try:
        manifest: Manifest = parse_json(
            sealed, where=MANIFEST_NAME, limit_bytes=MAX_MANIFEST_BYTES, limit_values=MAX_MANIFEST_VALUES
        )
        _check_format(manifest)
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


def _check_format(manifest: Any) -> None:
    """Check that this version supports the format of a pack.

    Raises:
        ManifestError: naming the version that made the pack.
    """
    stated = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(stated, str) and _ANY_FORMAT.fullmatch(stated) and stated not in FORMATS:
        made_by = str(manifest.get("invarlock_version", "of a version not stated"))[:50]
        words = f"{stated}, made by InvarLock {made_by}; this is {__version__}, which knows {', '.join(FORMATS)}"
        raise ManifestError(words, where=MANIFEST_NAME, field="format", code=Code.FORMAT_UNKNOWN)
