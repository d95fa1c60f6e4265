"""The last verification step: manifest, metadata, README and attestations must follow from the rest of the pack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.checksums import MANIFEST_NAME
from invarlock.packer.format.contents import SealedFiles
from invarlock.packer.format.documents import Manifest
from invarlock.packer.format.readme import readme_follows
from invarlock.packer.trust.attestation import statement_problems
from invarlock.packer.trust.attested import AttestedPack
from invarlock.packer.verify.attestable import attestable
from invarlock.packer.verify.authenticity import Attestation, Signature
from invarlock.packer.verify.catalogue import catalogue_warnings
from invarlock.packer.verify.control_files import ControlFiles, ManifestResult
from invarlock.packer.verify.manifest_claims import manifest_problems, metadata_problems
from invarlock.packer.verify.reports import Findings
from invarlock.packer.verify.results import Results

from invarlock import __version__
from invarlock.digests import sha256_hex
from invarlock.errors import IntegrityError
from invarlock.problems import Code, Problem


@dataclass(frozen=True)
class Claims:
    """The facts that attestations state (None without a verdict), and the predicates that were compared with them."""

    attestable: AttestedPack | None = None
    attested: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def check_claims(
    control: ControlFiles,
    manifest: ManifestResult,
    signature: Signature,
    found: Findings,
    results: Results,
    files: SealedFiles,
) -> Claims:
    """Return the claims of a pack that do not follow from its reports and its plan."""
    document, verdict = manifest.document, results.verdict
    pack = None if verdict is None else attestable(control.manifest, document, found, verdict, files)
    problems = [*manifest_problems(document, found, files, verdict), *metadata_problems(found, files)]
    problems += _misleading_names(files)
    problems += _readme_problems(document, found, verdict, files)
    for where, attestation in signature.statements.items():
        problems += _attestation_problems(where, attestation, pack)
    if not (problems or found.problems or results.problems):
        # the page is rendered from everything else, so any other problem would also appear as a problem of the page
        problems += _page_problems(document, found, verdict, files)
    return Claims(
        pack,
        attested=() if pack is None else tuple(sorted({one.predicate for one in signature.statements.values()})),
        warnings=(*_plan_warnings(document, found), *_opaque_warnings(document, files, derived=verdict is not None)),
        problems=tuple(problems),
    )


def version_problems(manifest: Manifest) -> list[Problem]:
    """Return a problem if another version made the pack; it is reported only along with other problems."""
    made_by = manifest.get("invarlock_version", __version__)
    if made_by == __version__:
        return []
    own = f"this is {__version__}, which may render texts and pages differently; verify with that version"
    return [Problem(Code.OTHER_VERSION, MANIFEST_NAME, "invarlock_version", f"made by InvarLock {made_by}, {own}")]


def _misleading_names(files: SealedFiles) -> list[Problem]:
    words = "is named like a file that is checked, apart from case or spelling"
    return [
        Problem(Code.FILE_NAME_MISLEADS, path, "", words)
        for path in sorted(filter(layout.looks_checked, files.digests))
    ]


def _readme_problems(
    manifest: Manifest, found: Findings, verdict: Mapping[str, Any] | None, files: SealedFiles
) -> Iterator[Problem]:
    if layout.README not in files.digests:
        return
    try:
        readme = files.data(layout.README)
    except IntegrityError:
        # already reported as a problem of the files
        return
    evidence = found.pack_statement(manifest, files.digests, verdict)
    if verdict is None or not readme_follows(
        readme, manifest, verdict, evidence, has_page=layout.PACK_PAGE in files.digests
    ):
        yield Problem(Code.README_DIFFERS, layout.README, "", "does not match the manifest and the verdict")


def _page_problems(
    manifest: Manifest, found: Findings, verdict: Mapping[str, Any] | None, files: SealedFiles
) -> Iterator[Problem]:
    """Yield a problem if the page of the pack exists and differs from the rendered one."""
    path = layout.PACK_PAGE
    if path not in files.digests:
        return
    if verdict is None or sha256_hex(found.page(manifest, files.digests, verdict)) != files.digests[path]:
        yield Problem(Code.PAGE_DIFFERS, path, "", "not the page that is rendered from the reports")


def _attestation_problems(where: str, attestation: Attestation, pack: AttestedPack | None) -> Iterator[Problem]:
    if pack is None:
        words = "attests a verdict, but none follows from the pack"
        yield Problem(Code.ATTESTATION_DIFFERS, where, "", words)
        return
    yield from statement_problems(attestation.predicate, attestation.statement, pack, where)


def _plan_warnings(manifest: Manifest, found: Findings) -> list[str]:
    scenarios = found.planned.scenarios
    return [] if scenarios is None else catalogue_warnings(manifest, scenarios)


def _opaque_warnings(manifest: Manifest, files: SealedFiles, *, derived: bool) -> list[str]:
    """Return one line that lists the files that no check uses; without a verdict, reports are not used either."""
    named = {row.get("path") for row in manifest.get("materials", [])}
    opaque = sorted(path for path in files.digests if not (derived and layout.is_checked(path)) and path not in named)
    if not opaque:
        return []
    shown = ", ".join(opaque[:3]) + (f" and {len(opaque) - 3} more" if len(opaque) > 3 else "")
    return [f"sealed, but not used by any check: {shown}"]
