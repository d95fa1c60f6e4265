"""Building a pack: staged in a hidden folder next to the target, sealed, verified, and renamed into place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.packer.build.staged_files import StagedFiles
from invarlock.packer.format import layout
from invarlock.packer.format.checksums import (
    ATTRIBUTES,
    ATTRIBUTES_NAME,
    CHECKSUMS_NAME,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    write_checksums,
)
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.pack_folder import open_pack
from invarlock.packer.format.places import case_place, neighbours
from invarlock.packer.format.readme import render_readme
from invarlock.packer.format.references import reference
from invarlock.packer.trust.keys import SigningKey, fingerprint
from invarlock.packer.trust.signature import sign_manifest
from invarlock.packer.verify.evidence import evidence_level
from invarlock.packer.verify.manifest_claims import derive_manifest, derive_source, metadata_problems
from invarlock.packer.verify.reports import Findings, examine_reports
from invarlock.packer.verify.results import derive_results, derive_verdict
from invarlock.packer.verify.verifying import ReportAssurance, VerifyOptions, verify_pack

from invarlock import __version__
from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject
from invarlock.errors import ReportError, UsageError
from invarlock.jsonio import check_schema, dump_json, sync_folder
from invarlock.problems import Code, Problem
from invarlock.reports.rendering import render_report
from invarlock.reports.verification import differences
from invarlock.staging import staging_folder
from invarlock.verdict.documents import Verdict
from invarlock.verdict.rendering import headline, render_verdict_text


@dataclass(frozen=True)
class PackContent:
    """The content of a pack.

    ``files`` maps pack paths to bytes: reports with their accompanying files, baselines, metadata. The builder accesses
    each once, so the mapping may read a file when it is accessed. Everything under ``results/``, the ``verify.json``
    files, README, checksums and manifest are derived from them.
    ``claimed_verdict`` must equal the derived verdict; its time is kept. ``report_assurance`` is the level required of
    the reports when the pack is read back: that each verifies, that clean ones were also made in a container, or
    nothing. ``has_page`` says whether the pack gets an overview page, ``index.html``.
    """

    files: Mapping[str, bytes]
    run_name: str
    parameters: Mapping[str, Any]
    materials: Mapping[str, str] = field(default_factory=dict)
    claimed_verdict: Mapping[str, Any] | None = None
    report_assurance: ReportAssurance = "report"
    readme_notes: str = ""
    has_page: bool = True


@dataclass(frozen=True)
class BuiltPack:
    """A pack that was written, read back and verified; ``evidence`` states what it covers and how strong it is."""

    path: Path
    verdict: str
    headline: str
    evidence_level: str
    fingerprint: str | None
    evidence: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return the description of the pack that ``build --json`` and ``merge --json`` print."""
        return {
            "pack": str(self.path),
            "verdict": self.verdict,
            "evidence_level": self.evidence_level,
            "signer_fingerprint": self.fingerprint,
            "evidence": list(self.evidence),
        }


def build_pack(target: Path, content: PackContent, signing_key: SigningKey | None, generated_at: str) -> BuiltPack:
    """Build, seal and verify a pack; the target folder appears complete or not at all.

    The same content, key and time always give the same bytes.

    Args:
        target: the pack's folder, which must not exist.
        content: the content of the pack.
        signing_key: signs the manifest; None leaves the pack unsigned.
        generated_at: the time of the build in UTC, such as ``2026-01-31T12:00:00Z``.

    Raises:
        UsageError: when the target exists or cannot be written to.
        ReportError: when a report or the pack does not verify.
        IntegrityError: when a path of the content is unsafe.
    """
    if target.exists() or target.is_symlink():
        raise UsageError(
            "already exists and a pack is never changed; choose another folder",
            code=Code.OUTPUT_EXISTS,
            where=str(target),
        )
    try:
        with staging_folder(target) as staging:
            with open_pack(staging) as folder, closing(StagedFiles(folder)) as files:
                built = _fill(files, target, content, signing_key, generated_at)
            result = verify_pack(staging, _options(content, signing_key))
            if not result.holds:
                raise _refused(f"the pack would not verify: {result.problems[0]}", result.problems)
            # rename replaces an empty folder, so the target is checked again as late as possible
            if target.exists():
                raise UsageError(
                    "already exists and a pack is never changed; choose another folder",
                    code=Code.OUTPUT_EXISTS,
                    where=str(target),
                )
            staging.rename(target)
            sync_folder(target.parent)
    except OSError as error:
        raise UsageError(
            f"cannot be written ({error.strerror})", code=Code.OUTPUT_UNWRITABLE, where=str(target)
        ) from None
    return built


def _fill(
    files: StagedFiles, target: Path, content: PackContent, signing_key: SigningKey | None, generated_at: str
) -> BuiltPack:
    """Write all files of a pack, and return its description."""
    found, verdict = _add_content(files, content, generated_at)
    manifest = _manifest(content, files, found, verdict, signing_key, generated_at)
    evidence = found.pack_statement(manifest, files.digests, verdict)
    files.add(
        layout.README, render_readme(manifest, verdict, evidence, content.readme_notes, has_page=content.has_page)
    )
    if content.has_page:
        files.add(layout.PACK_PAGE, found.page(manifest, files.digests, verdict))
    checksums = write_checksums(files.digests)
    manifest["checksums_sha256_digest"] = sha256_hex(checksums)
    check_schema(manifest, "evidence_pack_manifest", where=MANIFEST_NAME)
    sealed = dump_json(manifest)
    control = {CHECKSUMS_NAME: checksums, MANIFEST_NAME: sealed, ATTRIBUTES_NAME: ATTRIBUTES}
    if signing_key is not None:
        control[SIGNATURE_NAME] = dump_json(sign_manifest(sealed, signing_key))
    for path, data in control.items():
        files.add(path, data)
    files.sync()
    signer = None if signing_key is None else fingerprint(signing_key.public)
    summary = headline(verdict) if "not_bundled" in verdict else f"verdict {verdict['verdict']}"
    return BuiltPack(target, verdict["verdict"], summary, manifest["evidence_level"], signer, tuple(evidence))


def _refused(message: str, problems: Sequence[Problem]) -> ReportError:
    return ReportError(message, code=Code.NOT_PACKED, problems=problems)


def _options(content: PackContent, signing_key: SigningKey | None) -> VerifyOptions:
    """Return the options with which the maker verifies a pack after writing it."""
    assurance = content.report_assurance
    # strict checks cannot be combined with assurance off
    return VerifyOptions(
        strict=signing_key is not None and assurance != "off",
        report_assurance=assurance,
        allow_unsigned=signing_key is None,
    )


def _add_content(files: StagedFiles, content: PackContent, generated_at: str) -> tuple[Findings, Verdict]:
    """Write all files except README and control files; return the findings of the reports, and the verdict."""
    given = content.files
    if layout.SCENARIOS not in given:
        raise UsageError(
            f"{layout.SCENARIOS}: missing; give the effective manifest of the run", code=Code.BUILD_INPUT_UNUSABLE
        )
    # in a pack, a page also says what was expected of its case, so the given pages are rendered again
    pages = {
        path: page for path in filter(layout.is_report, given) if (page := layout.sibling(path, layout.PAGE)) in given
    }
    for path in given.keys() - pages.values():
        files.add(path, given[path])
    found = examine_reports(files)
    problems = [*found.problems, *metadata_problems(found, files)]
    if problems:
        raise _refused(f"{problems[0]}; a pack takes only reports that verify", problems)
    claimed = content.claimed_verdict
    timestamp = generated_at if claimed is None else str(claimed.get("timestamp", generated_at))
    left_out = [] if claimed is None else _left_out(claimed, found)
    verdict = derive_verdict(found, timestamp, left_out)
    wrong = [] if claimed is None else list(_not_derived(claimed, verdict))
    if wrong:
        raise _refused(f"{wrong[0]}; the given verdict does not follow from the given reports", wrong)
    if content.parameters:
        files.add(layout.SETTINGS, dump_json(dict(content.parameters)))
    files.add(layout.VERDICT_JSON, dump_json(verdict))
    files.add(layout.VERDICT_TEXT, render_verdict_text(verdict).encode("utf-8"))
    for path, document in derive_results(found, verdict).items():
        files.add(path, dump_json(document))
    around = neighbours(files.digests)
    for path, page in sorted(pages.items()):
        record, report = found.facts[path].record, files.document(path)
        place = None if record is None else case_place(record, around[path])
        files.add(page, render_report(report, files.digests[path], place))
    return found, verdict


def _left_out(claimed: Mapping[str, Any], found: Findings) -> list[str]:
    """Return the planned cases that the run's verdict includes but whose reports are not given."""
    paths = {str(row.get("path")) for row in claimed.get("records", ())}
    before = claimed.get("not_bundled")
    earlier = set(map(str, before)) if isinstance(before, list) else set()
    cases = found.planned.plan.cases.items()
    return [
        case.case_id for path, case in cases if path not in found.facts and (path in paths or case.case_id in earlier)
    ]


def _not_derived(claimed: Mapping[str, Any], verdict: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the differences between the given and the derived verdict; in a partial pack only records are compared."""
    where, code = "final_verdict.json", Code.RESULT_DOES_NOT_FOLLOW
    if "not_bundled" not in verdict:
        yield from differences(claimed, verdict, where=where, code=code)
        return
    given = {str(row.get("path")): row for row in claimed["records"]}
    for record in verdict["records"]:
        if record["path"] not in given:
            yield Problem(code, where, "records", f"has no record for {record['path']}")
        else:
            yield from differences(given[record["path"]], record, record["path"], where=where, code=code)


def _manifest(
    content: PackContent,
    files: PackFiles,
    found: Findings,
    verdict: Mapping[str, Any],
    signing_key: SigningKey | None,
    generated_at: str,
) -> JsonObject:
    derived = derive_manifest(found, files.digests)
    manifest: JsonObject = {
        "format": "evidence-pack-v1",
        "checksums_sha256": CHECKSUMS_NAME,
        "generated_at": generated_at,
        "run_dir": content.run_name,
        "invarlock_version": __version__,
        "builder": {"id": "invarlock.packer", "name": "InvarLock", "version": __version__},
        "invocation": {"parameters": dict(content.parameters)},
        "materials": [
            {"name": name, **reference(files.digests, path)}
            for name, path in sorted({**_own_materials(files.digests), **content.materials}.items())
        ],
        **derived,
        "verification": {**derived["verification"], "report_assurance": content.report_assurance},
    }
    source = derive_source(files)
    if source is not None:
        manifest["invocation"]["config_source"] = source
    if signing_key is not None:
        manifest["signing_key_fingerprint"] = fingerprint(signing_key.public)
    manifest["evidence_level"] = evidence_level(
        manifest, len(found.of_kind("clean")), verdict, is_served=found.serves_clean
    )
    return manifest


def _own_materials(files: Collection[str]) -> dict[str, str]:
    """Return the inputs of a run by name: the files of ``metadata/``, and each preset under its model's name."""
    names = {}
    for path in files:
        folder, _, name = path.rpartition("/")
        if folder == "metadata" and path not in (layout.SOURCE_REPO, layout.ENVIRONMENT):
            names[name.removesuffix(".json")] = path
        elif f"{folder}/" == layout.PRESETS and name.endswith(".json"):
            names[f"preset_{name.removesuffix('.json')}"] = path
    return names
