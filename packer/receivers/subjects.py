"""One subject of a verified pack with the reports of all its runs, as input for documents that other tools read.

Example::

    subject = read_subject(Path("PACK"), SubjectOptions(case="mistral-7b-quant_4bit_clean"))
    subject.name                      # "mistral-7b-quant_4bit_clean"
    subject.runs[0].report            # the document of its first run

All runs of a subject belong to it, so that nobody shows only the best of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.packer.build.attesting import read_file_lists
from invarlock.packer.format.limits import MAX_JSON_BYTES, MAX_JSON_VALUES
from invarlock.packer.format.pack_folder import open_pack
from invarlock.packer.trust.attested import AttestedPack, AttestedReport
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack

from invarlock.catalog.cases import case_id
from invarlock.catalog.pins import combine_digests
from invarlock.digests import digest_bytes, sha256_hex
from invarlock.errors import IntegrityError, InvarLockError, UsageError
from invarlock.jsonio import parse_json
from invarlock.nearest import did_you_mean
from invarlock.problems import Code

# The most names that a message lists.
MAX_NAMES = 8


@dataclass(frozen=True)
class SubjectOptions:
    """The subject to read, and the requirements on its pack.

    Attributes:
        case: the id of a case, with or without its run; None selects the only subject that must pass.
        checkpoint_files: a file with the output of ``sha256sum`` over the subject's files, None to leave them out.
        allow_unsigned: whether the pack may be unsigned.
        expected_fingerprint: the fingerprint of the pack's signer, None to accept any signer.
        default_store: a trust store that may revoke the pack's signer.
    """

    case: str | None = None
    checkpoint_files: Path | None = None
    allow_unsigned: bool = False
    expected_fingerprint: str | None = None
    default_store: Path | None = None


@dataclass(frozen=True)
class SubjectRun:
    """One run of a subject: its record in the verdict, and its report."""

    record: Mapping[str, Any]
    report: Mapping[str, Any]


@dataclass(frozen=True)
class PackSubject:
    """A subject of a verified pack.

    Attributes:
        name: the id of the subject's case without the run.
        runs: the subject's runs in order of their number, at least one.
        pack: the facts of the pack.
        signer: fingerprint of the pack's signer, None if the pack is unsigned.
        files: SHA-256 (64 hex) of the subject's files by name, if they are known.
        warnings: the warnings of the verification.
    """

    name: str
    runs: tuple[SubjectRun, ...]
    pack: AttestedPack
    signer: str | None
    files: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def report(self) -> Mapping[str, Any]:
        """The report of the first run; apart from measurements, the reports of all runs are equal."""
        return self.runs[0].report

    @property
    def manifest_sha256(self) -> str:
        """The digest of the pack's manifest, which identifies the pack because the manifest fixes every file."""
        return sha256_hex(self.pack.sealed)

    @property
    def baseline_files(self) -> Mapping[str, str]:
        """SHA-256 (64 hex) of the baseline's files by name, if the pack has them."""
        return self.pack.baseline_files.get(self.report["baseline_ref"]["digest"], {})

    @property
    def passes(self) -> bool:
        """Whether every gate passes in each run."""
        return all(run.report["assurance"]["verdict"] == "PASS" for run in self.runs)


def read_subject(pack: Path, options: SubjectOptions) -> PackSubject:
    """Verify a pack and return one of its subjects.

    Raises:
        UsageError: when the pack has no verdict, or the options match no subject or several.
        InvarLockError: with the problems of the pack and their exit code, when it does not verify.
    """
    result = verify_pack(
        pack,
        VerifyOptions(
            allow_unsigned=options.allow_unsigned,
            expected_fingerprint=options.expected_fingerprint,
            default_store=options.default_store,
        ),
    )
    attested = _attested(result)
    reports = choose_reports(attested, options.case)
    runs = _read_runs(pack, attested, reports)
    return PackSubject(
        name=_name(reports[0]),
        runs=tuple(runs),
        pack=attested,
        signer=result.signer,
        files=_files_of(reports[0].subject_digest, options.checkpoint_files),
        warnings=result.warnings,
    )


def _attested(result: VerifyResult) -> AttestedPack:
    if not result.holds:
        raise InvarLockError(f"{result.pack}: does not verify: {result.problems[0]}", problems=result.problems)
    if result.attestable is None:
        raise UsageError(
            "claims no verdict, so it shows nothing of a subject", code=Code.VERDICT_NOT_CLAIMED, where=str(result.pack)
        )
    return result.attestable


def _name(report: AttestedReport) -> str:
    return case_id(report.model, report.scenario, report.run).removesuffix(f"-run{report.run}")


def choose_reports(pack: AttestedPack, case: str | None) -> list[AttestedReport]:
    """Return the reports of one subject: all reports of one model and scenario about the same checkpoint.

    Args:
        pack: the facts of the pack.
        case: the id of a case, with or without its run; None selects the only subject that must pass.

    Raises:
        UsageError: when no subject or several subjects match.
    """
    subjects: dict[tuple[str, str, str | None], list[AttestedReport]] = {}
    for report in pack.reports:
        subjects.setdefault((report.model, report.scenario, report.subject_digest), []).append(report)
    if case is None:
        return _only_subject(pack, list(subjects.values()))
    found = [reports for reports in subjects.values() if case in _ids(reports)]
    if not found:
        names = dict.fromkeys(_name(reports[0]) for reports in subjects.values())
        guess = did_you_mean(case, names) or f"; choose from {_listed(list(names))}"
        raise UsageError(f"--case: {case[:200]!r} is not a case of this pack{guess}", code=Code.SELECTION_INVALID)
    if len(found) > 1:
        ids = [case_id(one.model, one.scenario, one.run) for reports in found for one in reports]
        raise UsageError(
            f"--case: the runs of {case} have different subjects; choose one run from {_listed(ids)}",
            code=Code.SELECTION_INVALID,
        )
    return found[0]


def _only_subject(pack: AttestedPack, subjects: Sequence[list[AttestedReport]]) -> list[AttestedReport]:
    """Return the only subject that must pass and differs from its baseline, or the only one at all."""
    must_pass = {(row["model"], row["name"]) for row in pack.verdict["records"] if row["strictness"] == "must_pass"}
    candidates = [
        reports
        for reports in subjects
        if (reports[0].model, reports[0].scenario) in must_pass
        and reports[0].subject_digest != pack.baselines.get(reports[0].model)
    ]
    chosen = candidates or subjects
    if len(chosen) != 1:
        raise UsageError(
            f"the pack has {len(chosen)} subjects; choose one with --case: "
            f"{_listed([_name(reports[0]) for reports in chosen])}",
            code=Code.SELECTION_INVALID,
        )
    return chosen[0]


def _ids(reports: Sequence[AttestedReport]) -> set[str]:
    return {_name(reports[0]), *(case_id(one.model, one.scenario, one.run) for one in reports)}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _read_runs(pack: Path, attested: AttestedPack, reports: Sequence[AttestedReport]) -> list[SubjectRun]:
    """Return the runs of a subject after checking that their reports have the verified digests.

    Raises:
        IntegrityError: when a report changed after the verification.
    """
    records = {(row["model"], row["name"], row["run_num"]): row for row in attested.verdict["records"]}
    runs = []
    with open_pack(pack) as folder:
        for one in reports:
            record = records[one.model, one.scenario, one.run]
            path = record["path"]
            data = folder.read(path, MAX_JSON_BYTES)
            if digest_bytes(data) != one.report_sha256:
                raise IntegrityError("it changed after the pack was verified", where=path, code=Code.FILE_CHANGED)
            report = parse_json(data, where=path, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)
            runs.append(SubjectRun(record, report))
    return runs


def _files_of(digest: str | None, listing: Path | None) -> Mapping[str, str]:
    """Return the files of a subject, read from the output of ``sha256sum``.

    Raises:
        UsageError: when they are files of another checkpoint.
    """
    if listing is None:
        return {}
    (files,) = read_file_lists([listing])
    if combine_digests(files) != digest:
        raise UsageError(
            f"--checkpoint-files: {listing}: not the files of this subject; list exactly its weight, config and "
            "tokenizer files",
            code=Code.USAGE_INVALID,
        )
    return files
