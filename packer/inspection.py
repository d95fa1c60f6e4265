"""Summarising a pack without verifying its reports: its content and its claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.checksums import (
    ATTESTATIONS,
    CHECKSUMS_NAME,
    CONTROL_FILES,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    read_checksums,
)
from invarlock.packer.format.layout import is_report, sibling
from invarlock.packer.format.limits import (
    MAX_CHECKSUMS_BYTES,
    MAX_JSON_BYTES,
    MAX_JSON_VALUES,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURE_BYTES,
)
from invarlock.packer.format.manifest import read_manifest
from invarlock.packer.format.pack_folder import PackFolder, open_pack
from invarlock.packer.format.references import reference_problems
from invarlock.packer.trust.keys import fingerprint
from invarlock.packer.trust.signature import verify_manifest
from invarlock.packer.verify.evidence import absent, pack_statement, scope_of

from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, IntegrityError, InvarLockError, MissingFileError, SignatureError
from invarlock.jsonio import check_schema, parse_json
from invarlock.problems import Problem
from invarlock.reports.served import is_served, stated_words
from invarlock.verdict.compiling import Planned, planned_cases


def inspect_pack(path: Path) -> JsonObject:
    """Summarise a pack: manifest, signature, checksum coverage, references, reports, strict readiness and sizes.

    Raises:
        MissingFileError: when the pack, its manifest or its checksum file is missing.
        ManifestError: when the manifest is malformed.
        IntegrityError: when the checksum file is malformed.
    """
    with open_pack(path) as folder:
        sealed = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        checksums = folder.read(CHECKSUMS_NAME, MAX_CHECKSUMS_BYTES)
        manifest = read_manifest(sealed)
        signature, signer, unsound = _signature(folder, sealed)
        listing = folder.listing()
        promised = read_checksums(checksums)
        reports = sorted(name for name in listing.files if is_report(name))
        contained = [name for name in reports if _in_container(_read(folder, sibling(name, layout.RUNTIME_MANIFEST)))]
        plan = _planned(_read(folder, layout.SCENARIOS))
        verdict = _read(folder, layout.VERDICT_JSON)
        without = [name for name in reports if sibling(name, layout.EDIT_METADATA) not in listing.files]
        served = {name: words for name in without if (words := _served(_read(folder, name))) is not None}
    uncovered = sorted(set(listing.files) - set(promised) - CONTROL_FILES)
    missing = sorted(set(promised) - set(listing.files))
    digest_ok = sha256_hex(checksums) == manifest["checksums_sha256_digest"].lower()
    broken = list(reference_problems(manifest, promised))
    clean = {name for name in reports if name in plan and plan[name].scenario["category"] == "clean"}
    outside = clean - set(contained)
    claimed = verdict if isinstance(verdict, dict) and isinstance(verdict.get("verdict"), str) else None
    evidence = pack_statement(
        scope_of(plan, reports, contained, served), clean, claimed, list(absent(manifest, promised, plan))
    )
    return {
        "pack": str(path),
        "manifest": {key: manifest.get(key) for key in ("format", "generated_at", "suite", "invarlock_version")},
        "evidence_level_claimed": manifest.get("evidence_level"),
        "evidence_claimed": evidence,
        "signature": signature,
        "signature_problems": [problem.document() for problem in unsound],
        "signer_fingerprint": signer,
        "attestation": "present" if set(ATTESTATIONS.values()) & set(listing.files) else "missing",
        "verdict_claimed": None if claimed is None else claimed["verdict"],
        "verified": False,
        "checksums": {"digest_ok": digest_ok, "files": len(promised), "missing": missing, "uncovered": uncovered},
        "unsafe": [problem.document() for problem in listing.problems],
        "reports": {
            "total": len(reports),
            "errors": sum("/errors/" in name for name in reports),
            "with_runtime_manifest": sum(sibling(name, layout.RUNTIME_MANIFEST) in listing.files for name in reports),
            "in_container": len(contained),
            "baselines": sum(layout.is_baseline(name) for name in listing.files),
        },
        "provenance": {
            "source_repo": layout.SOURCE_REPO in listing.files,
            "environment": layout.ENVIRONMENT in listing.files,
            "references_broken": [problem.document() for problem in broken],
        },
        "strict_readiness": _not_ready(
            {
                f"signature: {signature}": signature == "valid",
                f"{len(missing)} files missing": not missing,
                f"{len(uncovered)} files that are not sealed": not uncovered,
                f"{len(listing.problems)} unsafe entries": not listing.problems,
                "checksums.sha256 does not match the manifest": digest_ok,
                f"{len(broken)} broken references": not broken,
                "no clean report": bool(clean),
                f"{len(outside)} of {len(clean)} clean reports not from a container": not outside,
            }
        ),
        "bytes": listing.total_bytes,
    }


def _not_ready(conditions: dict[str, bool]) -> dict[str, object]:
    """Return whether ``verify --strict --report-assurance strict`` could succeed, and what prevents it."""
    against: Sequence[str] = [name for name, holds in conditions.items() if not holds]
    return {"ready": not against, "against": against}


def _signature(folder: PackFolder, sealed: bytes) -> tuple[str, str | None, tuple[Problem, ...]]:
    """Return ``valid``, ``missing`` or ``invalid`` with the reason, the signer, and the signature's problems."""
    try:
        public = verify_manifest(sealed, folder.read(SIGNATURE_NAME, MAX_SIGNATURE_BYTES))
    except MissingFileError:
        return "missing", None, ()
    except (SignatureError, IntegrityError) as error:
        return f"invalid: {error}", None, error.problems
    return "valid", fingerprint(public), ()


def _read(folder: PackFolder, path: str) -> Any:
    """Return a document, or None if it is missing or unreadable."""
    try:
        data = folder.read(path, MAX_JSON_BYTES)
        return parse_json(data, where=path, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)
    except (MissingFileError, DocumentError, IntegrityError):
        return None


def _planned(scenarios: Any) -> dict[str, Planned]:
    """Return the planned cases of an effective manifest; empty if it is malformed."""
    try:
        check_schema(scenarios, "scenarios", where=layout.SCENARIOS)
        return planned_cases(scenarios)
    except InvarLockError:
        return {}


def _served(report: Any) -> str | None:
    """Return what the server states about a served subject; None for a checkpoint's report or a malformed one."""
    try:
        check_schema(report, "evaluation_report", where=layout.REPORT_NAME)
    except InvarLockError:
        return None
    return stated_words(report["subject"]["served"]) if is_served(report) else None


def _in_container(runtime: Any) -> bool:
    block = runtime.get("runtime") if isinstance(runtime, dict) else None
    return isinstance(block, dict) and block.get("container_execution") is True and bool(block.get("image_digest"))
