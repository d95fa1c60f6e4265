"""How a manifest refers to a file of its pack: by path and digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.errors import IntegrityError
from invarlock.problems import Code, Problem


def reference(digests: Mapping[str, str], path: str) -> dict[str, str]:
    """Return the reference object of a manifest for a file.

    Raises:
        IntegrityError: when the file is not in the pack.
    """
    if path not in digests:
        words = "referenced by the manifest, but not in the pack"
        raise IntegrityError(words, where=path, code=Code.REFERENCE_DANGLES)
    return {"path": path, "digest": f"sha256:{digests[path]}"}


def reference_problems(manifest: Mapping[str, Any], digests: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for each manifest reference to a missing file or digest, or whose path and digest disagree."""
    references: list[tuple[str, Any]] = [(key, manifest[key]) for key in ("subject", "environment") if key in manifest]
    source = manifest.get("invocation", {}).get("config_source")
    if source is not None:
        references.append(("invocation.config_source", source))
    for key in ("materials", "verification_baselines", "artifacts"):
        references += [(f"{key}[{index}]", row) for index, row in enumerate(manifest.get(key, []))]
    known = frozenset(f"sha256:{digest}" for digest in digests.values())
    for name, row in references:
        path, digest = row.get("path"), row.get("digest")
        if path is not None and path not in digests:
            words = f"refers to {path[:100]!r}, which is not in the pack"
            yield Problem(Code.REFERENCE_DANGLES, "manifest.json", name, words)
        elif path is not None and digest is not None and digest != f"sha256:{digests[path]}":
            yield Problem(Code.REFERENCE_DIFFERS, "manifest.json", name, f"digest does not match {path}")
        elif digest is not None and digest not in known:
            yield Problem(Code.REFERENCE_DANGLES, "manifest.json", name, "digest matches no file of the pack")
