"""Functions that compare the documents of two packs from runs of the same cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TIMES = {"telemetry", "timestamp", "generated_at", "generated_at_utc", "seconds", "stages", "by_category", "by_model"}
DIGESTS = {"report_sha256", "sha256", "digest", "checksums_sha256_digest", "signing_key_fingerprint"}


def without(document: Any, keys: set[str]) -> Any:
    """Return a document without some keys, at any depth."""
    if isinstance(document, dict):
        return {key: without(value, keys) for key, value in document.items() if key not in keys}
    return [without(value, keys) for value in document] if isinstance(document, list) else document


def comparable_documents(pack: Path) -> dict[str, Any]:
    """Return the documents of a pack by path, without times, digests, options and nodes."""
    documents = {
        str(path.relative_to(pack)): json.loads(path.read_bytes())
        for path in pack.rglob("*.json")
        if path.name not in ("evaluate_timing.json", "manifest.signature.json")
    }
    documents.pop("metadata/settings.json", None)
    for key in ("run_dir", "invocation"):
        del documents["manifest.json"][key]
    documents["metadata/environment.json"].pop("nodes", None)
    return {name: without(document, TIMES | DIGESTS) for name, document in documents.items()}
