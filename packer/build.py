"""Building a pack: staged in a hidden sibling, sealed, verified, and renamed into place whole."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.packer import layout
from invarlock.packer.checksums import CHECKSUMS_NAME, MANIFEST_NAME, SIGNATURE_NAME, check_path, write_checksums
from invarlock.packer.claims import (
    PackData,
    categories,
    count_reports,
    derive_results,
    evidence_level,
    verify_envelope,
)
from invarlock.packer.keys import SigningKey, fingerprint
from invarlock.packer.layout import beside
from invarlock.packer.readme import render_readme
from invarlock.packer.signature import sign_manifest
from invarlock.packer.verify import VerifyOptions, verify_pack

from invarlock import __version__
from invarlock.errors import IntegrityError, ReportError, UsageError
from invarlock.jsonio import check_schema, dump_json, parse_json, sync_folder, write_bytes
from invarlock.reports.verification import differences, verify_report
from invarlock.verdict.rendering import render_verdict_text

_STAGING = re.compile(r"\.(.+)\.staging-([0-9]+)-[0-9a-f]{8}")


@dataclass(frozen=True)
class PackContent:
    """What goes into a pack.

    ``files`` are the bytes of its files by pack path: reports and their sidecars, baselines, metadata. Everything under
    ``results/``, the ``verify.json`` files, README, checksums and manifest are derived from them.
    ``claimed_verdict`` must be the verdict that is derived; its time is kept.
    """

    files: Mapping[str, bytes]
    run_name: str
    parameters: Mapping[str, Any]
    policy_profile: str
    materials: Mapping[str, str] = field(default_factory=dict)
    claimed_verdict: Mapping[str, Any] | None = None
    network_mode: str = "offline"
    report_assurance: str = "report"


@dataclass(frozen=True)
class BuiltPack:
    """A pack that stands, was read back and verified."""

    path: Path
    verdict: str
    evidence_level: str
    fingerprint: str | None


def build_pack(target: Path, content: PackContent, signing_key: SigningKey | None, generated_at: str) -> BuiltPack:
    """Build, seal and verify a pack; it appears whole, or nothing of it does.

    The same content, key and time give the same bytes.

    Args:
        target: the pack's folder, which must not exist.
        content: what goes into it.
        signing_key: signs the manifest; None leaves the pack unsigned.
        generated_at: UTC, ``2026-01-31T12:00:00Z``.

    Raises:
        UsageError: when the target exists or cannot be written to.
        ReportError: when a report does not verify, or the pack would not.
        IntegrityError: when a path of the content is unsafe.
    """
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: exists; a pack is never changed, name another folder")
    files, verdict = _complete(content, generated_at)
    manifest = _manifest(content, files, signing_key, generated_at)
    files[layout.README] = render_readme(manifest, verdict)
    checksums = write_checksums({path: hashlib.sha256(data).hexdigest() for path, data in files.items()})
    manifest["checksums_sha256_digest"] = hashlib.sha256(checksums).hexdigest()
    check_schema(manifest, "manifest", where=MANIFEST_NAME)
    sealed = dump_json(manifest)
    files |= {CHECKSUMS_NAME: checksums, MANIFEST_NAME: sealed}
    if signing_key is not None:
        files[SIGNATURE_NAME] = dump_json(sign_manifest(sealed, signing_key))
    _remove_abandoned(target.parent)
    staging = target.parent / f".{target.name}.staging-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        for path, data in files.items():
            write_bytes(staging / path, data)
        result = verify_pack(staging, VerifyOptions(strict=signing_key is not None))
        if not result.ok:
            raise ReportError(f"the pack would not verify: {result.errors[0]['where']}: {result.errors[0]['message']}")
        # an empty folder may be replaced by rename, so the target is checked again as late as can be
        if target.exists():
            raise UsageError(f"{target}: exists; a pack is never changed, name another folder")
        staging.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    signer = None if signing_key is None else fingerprint(signing_key.public)
    return BuiltPack(target, verdict["verdict"], manifest["evidence_level"], signer)


def _complete(content: PackContent, generated_at: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return all files but README and the control files, and the verdict."""
    files = dict(content.files)
    for path in files:
        check_path(path)
    if layout.SCENARIOS not in files:
        raise UsageError(f"{layout.SCENARIOS}: a pack needs the effective manifest of its run")
    documents = {path: parse_json(data, where=path) for path, data in files.items() if path.endswith(".json")}
    data = PackData(documents, {}, {path: hashlib.sha256(raw).hexdigest() for path, raw in files.items()})
    check_schema(documents[layout.SCENARIOS], "scenarios", where=layout.SCENARIOS)
    kinds = categories(documents[layout.SCENARIOS])
    reports = data.reports()
    for path, (report, _) in reports.items():
        problems = verify_report(report)
        if problems:
            raise ReportError(f"{path}: {problems[0]}; a report that does not verify is not packed")
        kind = kinds.get(report["meta"]["scenario"], "unknown")
        files[beside(path, layout.REPORT_VERIFICATION)] = dump_json(verify_envelope(path, report, kind, problems))
    claimed = content.claimed_verdict
    timestamp = generated_at if claimed is None else str(claimed.get("timestamp", generated_at))
    verdict, results = derive_results(documents[layout.SCENARIOS], reports, data, timestamp)
    wrong = [] if claimed is None else list(differences(claimed, verdict))
    if wrong:
        raise ReportError(f"{layout.VERDICT_JSON}: {wrong[0]}; the verdict does not follow from these reports")
    files |= {path: dump_json(document) for path, document in results.items()}
    files[layout.VERDICT_JSON] = dump_json(verdict)
    files[layout.VERDICT_TEXT] = render_verdict_text(verdict).encode("utf-8")
    return files, verdict


def _manifest(
    content: PackContent, files: Mapping[str, bytes], signing_key: SigningKey | None, generated_at: str
) -> dict[str, Any]:
    scenarios = parse_json(files[layout.SCENARIOS], where=layout.SCENARIOS)
    selection = scenarios["selection"]
    reports = {path: (parse_json(data, where=path), "") for path, data in files.items() if layout.is_report(path)}
    counts = count_reports(reports, categories(scenarios))
    manifest: dict[str, Any] = {
        "format": "evidence-pack-v1",
        "checksums_sha256": CHECKSUMS_NAME,
        "generated_at": generated_at,
        "suite": selection["suite"],
        "network_mode": content.network_mode,
        "determinism": "throughput",
        "repeats": 0,
        "run_dir": content.run_name,
        "invarlock_version": __version__,
        "builder": {"id": "invarlock.packer", "name": "InvarLock", "version": __version__},
        "subject": {"name": "final_verdict", **_reference(files, layout.VERDICT_JSON)},
        "invocation": {"parameters": dict(content.parameters)},
        "model_list": [row["model_id"] for row in selection["models"]],
        "models": [{key: row[key] for key in ("model_id", "revision")} for row in selection["models"]],
        "model_licenses": {row["model_id"]: row["licence"] for row in selection["models"]},
        "materials": [{"name": name, **_reference(files, path)} for name, path in sorted(content.materials.items())],
        "verification_baselines": [
            {
                "name": path.split("/")[1],
                **_reference(files, path),
                "report_paths": sorted(report for report in reports if report.split("/")[1] == path.split("/")[1]),
            }
            for path in sorted(files)
            if layout.is_baseline(path)
        ],
        "verification": {
            **counts,
            "failed_reports": 0,
            "policy_profile": content.policy_profile,
            "report_assurance": content.report_assurance,
        },
    }
    if layout.SOURCE_REPO in files:
        source = parse_json(files[layout.SOURCE_REPO], where=layout.SOURCE_REPO)
        manifest["invocation"]["config_source"] = {
            **{key: source.get(key) for key in ("uri", "commit", "branch", "describe", "dirty")},
            **_reference(files, layout.SOURCE_REPO),
        }
    if layout.ENVIRONMENT in files:
        manifest["environment"] = _reference(files, layout.ENVIRONMENT)
    if signing_key is not None:
        manifest["signing_key_fingerprint"] = fingerprint(signing_key.public)
    manifest["evidence_level"] = evidence_level(manifest, 0, counts["clean_reports"])
    return manifest


def _reference(files: Mapping[str, bytes], path: str) -> dict[str, str]:
    if path not in files:
        raise IntegrityError(f"{path}: named by the manifest, but not among the pack's files")
    return {"path": path, "digest": f"sha256:{hashlib.sha256(files[path]).hexdigest()}"}


def _remove_abandoned(parent: Path) -> None:
    """Remove staging folders of builders that are gone."""
    parent.mkdir(parents=True, exist_ok=True)
    for entry in parent.iterdir():
        match = _STAGING.fullmatch(entry.name)
        if match is not None and not _is_alive(int(match[2])):
            shutil.rmtree(entry, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
