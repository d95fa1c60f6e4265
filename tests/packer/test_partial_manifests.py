"""Manifests with few fields, and packs without a report."""

import json
import shutil
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.attesting import attest_pack
from invarlock.packer.format.checksums import CONTROL_FILES, write_checksums
from invarlock.packer.format.references import reference, reference_problems
from invarlock.packer.inspection import inspect_pack
from invarlock.packer.trust.keys import SigningKey
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import (
    REPORT,
    SCENARIOS,
    VERDICT,
    codes,
    edit_json,
    messages,
    pack_files,
    places,
    seal,
    sha256,
    sign,
    strict,
)

from invarlock.errors import IntegrityError, UsageError
from invarlock.jsonio import dump_json
from invarlock.problems import Code, Problem


def test_three_required_fields_and_a_signature_are_a_manifest(pack: Path, real_run: Any) -> None:
    whole = json.loads((pack / "manifest.json").read_bytes())
    (pack / "README.md").unlink()
    (pack / "index.html").unlink()
    digests = {path: sha256(data) for path, data in pack_files(pack).items() if path not in CONTROL_FILES}
    (pack / "checksums.sha256").write_bytes(write_checksums(digests))
    sign(pack, {key: whole[key] for key in ("format", "checksums_sha256")}, real_run.key)

    bare = strict(pack)

    assert (bare.code, bare.verdict, bare.evidence_level) == (0, "PASS", "low"), messages(bare)


def without(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of a document, each with one field left out, including nested fields."""
    items = list(document.items()) if isinstance(document, dict) else list(enumerate(document))
    for key, value in items:
        if isinstance(document, dict):
            yield str(key), {name: row for name, row in items if name != key}
        if isinstance(value, dict | list):
            for path, less in without(value):
                changed = copy(document)
                changed[key] = less
                yield f"{key}.{path}", changed


@pytest.mark.slow
def test_every_optional_block_of_a_manifest_and_every_field_of_each_may_be_left_out(pack: Path, real_run: Any) -> None:
    (pack / "README.md").unlink()
    (pack / "index.html").unlink()
    # a manifest may claim a lower level than the pack supports
    edit_json(pack / "manifest.json", lambda manifest: manifest.update(evidence_level="low"))
    seal(pack, real_run.key)
    whole = json.loads((pack / "manifest.json").read_bytes())
    settings = whole["invocation"]["parameters"]
    whole["invocation"]["parameters"] = {name: settings[name] for name in ("tier", "profile", "release_review")}
    required = {"format", "checksums_sha256", "checksums_sha256_digest"}
    shorter = {path: document for path, document in without(whole) if path not in required}

    codes = {}
    for path, document in shorter.items():
        sign(pack, document, real_run.key)
        result = verify_pack(pack, VerifyOptions())
        inspect_pack(pack)
        if result.code:
            codes[path] = messages(result)

    assert {"subject", "subject.digest", "verification.clean_reports", "models.0.revision", "builder.id"} <= set(
        shorter
    )
    assert codes == {}


@pytest.mark.parametrize(
    ("claim", "code", "field"),
    [
        (lambda m: m["subject"].pop("path"), None, ""),
        (lambda m: m["subject"].update(digest=f"sha256:{'0' * 64}"), Code.REFERENCE_DIFFERS, "subject"),
        (lambda m: m.update(subject={"digest": f"sha256:{'0' * 64}"}), Code.REFERENCE_DANGLES, "subject"),
        (lambda m: m.update(subject={"path": "README.md"}), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "subject.path"),
        (lambda m: m.update(subject={}), Code.EVIDENCE_LEVEL_TOO_HIGH, "evidence_level"),
        (lambda m: m.update(environment={}), Code.EVIDENCE_LEVEL_TOO_HIGH, "evidence_level"),
        (lambda m: m["invocation"].update(config_source={}), Code.EVIDENCE_LEVEL_TOO_HIGH, "evidence_level"),
        (
            lambda m: m.update(models=[{"model_id": "another/model"}]),
            Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
            "models[0].model_id",
        ),
        (
            lambda m: m.update(verification={"clean_reports": 2}),
            Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
            "verification.clean_reports",
        ),
        (
            lambda m: m.update(model_licenses={"another/model": "MIT"}),
            Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
            "model_licenses.another/model",
        ),
        (
            lambda m: m.update(verification_baselines=[{"name": "x"}]),
            Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
            "verification_baselines[0].name",
        ),
        (
            lambda m: m["invocation"].update(config_source={"commit": "1" * 40}),
            Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
            "invocation.config_source.commit",
        ),
    ],
)
def test_what_a_partial_block_claims_is_checked(
    pack: Path, real_run: Any, claim: Callable[[Any], object], code: Code | None, field: str
) -> None:
    manifest = json.loads((pack / "manifest.json").read_bytes())
    claim(manifest)
    if code is None:
        manifest["evidence_level"] = "low"
        lines = (pack / "checksums.sha256").read_text().splitlines(keepends=True)
        for name in ("README.md", "index.html"):
            (pack / name).unlink()
            lines = [line for line in lines if not line.endswith(f"  {name}\n")]
        (pack / "checksums.sha256").write_text("".join(lines))
    sign(pack, manifest, real_run.key)

    result = strict(pack)

    if code is None:
        assert result.holds, messages(result)
    else:
        assert (code, "manifest.json", field) in places(result), messages(result)


def test_a_folder_of_any_files_can_be_sealed_and_checked(tmp_path: Path, real_run: Any) -> None:
    bare(tmp_path, real_run.key, {"notes.txt": b"no report, no verdict"})

    result = strict(tmp_path)

    assert (result.code, result.verdict, result.evidence_level, result.reports_verified) == (0, None, "low", False)
    assert result.document()["assurance_status"] == "not_checked"
    assert "only checksums and signature were checked" in "; ".join(result.warnings)
    assert result.warnings[-1] == "sealed, but not used by any check: notes.txt"
    assert strict(tmp_path, require_pass=True).code == 7
    assured = strict(tmp_path, report_assurance="strict")
    assert (assured.code, assured.reports_verified) == (7, False)
    assert codes(assured) == {Code.CLEAN_REPORT_REQUIRED}
    with pytest.raises(UsageError) as refused:
        attest_pack(tmp_path, real_run.key)
    assert refused.value.code is Code.VERDICT_NOT_CLAIMED


def bare(folder: Path, key: SigningKey, files: dict[str, bytes], **claims: Any) -> None:
    """Make a signed pack of arbitrary files, whose manifest has the given claims."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "checksums.sha256").write_bytes(write_checksums({path: sha256(data) for path, data in files.items()}))
    sign(folder, {"format": "evidence-pack-v1", "checksums_sha256": "checksums.sha256", **claims}, key)


MISLEADS, CLAIM = Code.FILE_NAME_MISLEADS, Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW
TOO_HIGH, REVIEW = Code.EVIDENCE_LEVEL_TOO_HIGH, "invocation.parameters.release_review"


@pytest.mark.parametrize(
    ("files", "claims", "code", "where", "field"),
    [
        ({"README.md": b"- Verdict: **PASS** (66 of 66)"}, {}, Code.README_DIFFERS, "README.md", ""),
        ({"readme.md": b"PASS"}, {}, MISLEADS, "readme.md", ""),
        ({"Reports/m/s/run_1/evaluation.html": b"PASS"}, {}, MISLEADS, "Reports/m/s/run_1/evaluation.html", ""),
        ({"RESULTS/final_verdict.txt": b"PASS"}, {}, MISLEADS, "RESULTS/final_verdict.txt", ""),
        ({"\uff52esults/final_verdict.txt": b"PASS"}, {}, MISLEADS, "\uff52esults/final_verdict.txt", ""),
        ({"Metadata/pytest_report.json": b"{}"}, {}, MISLEADS, "Metadata/pytest_report.json", ""),
        ({"results/final_verdict.txt": b"PASS"}, {}, Code.FILE_ABSENT, "results/final_verdict.json", ""),
        ({}, {"evidence_level": "high"}, TOO_HIGH, "manifest.json", "evidence_level"),
        ({}, {"evidence_level": "medium"}, TOO_HIGH, "manifest.json", "evidence_level"),
        ({}, {"verification": {"clean_reports": 20}}, CLAIM, "manifest.json", "verification.clean_reports"),
        (
            {},
            {"verification": {"report_assurance": "strict"}},
            TOO_HIGH,
            "manifest.json",
            "verification.report_assurance",
        ),
        ({}, {"suite": "full"}, CLAIM, "manifest.json", "suite"),
        ({}, {"model_list": ["mistralai/Mistral-7B-v0.1"]}, CLAIM, "manifest.json", "model_list"),
        ({}, {"models": [{"model_id": "x"}]}, CLAIM, "manifest.json", "models"),
        ({"v.json": b"{}"}, {"subject": {"path": "v.json"}}, CLAIM, "manifest.json", "subject"),
        ({}, {"network_mode": "offline"}, CLAIM, "manifest.json", "network_mode"),
        (
            {},
            {"invocation": {"parameters": {"release_review": {"value": True}}}},
            Code.REVIEW_NOT_SUPPORTED,
            "manifest.json",
            REVIEW,
        ),
        ({"metadata/environment.json": b"{}"}, {}, Code.FILE_MALFORMED, "metadata/environment.json", ""),
    ],
)
def test_a_pack_without_reports_can_claim_nothing(
    tmp_path: Path, real_run: Any, files: dict[str, bytes], claims: dict[str, Any], code: Code, where: str, field: str
) -> None:
    bare(tmp_path, real_run.key, {"notes.txt": b"notes", **files}, **claims)

    for options in (VerifyOptions(), VerifyOptions(strict=True)):
        result = verify_pack(tmp_path, options)
        assert (result.code, result.ok, result.reports_verified) == (7, False, False), messages(result)
        assert (code, where, field) in places(result), messages(result)


def test_an_attestation_of_a_pack_without_a_verdict_is_refused(tmp_path: Path, real_run: Any, pack: Path) -> None:
    attest_pack(pack, real_run.key)
    bare(tmp_path / "bare", real_run.key, {"notes.txt": b"notes"})
    shutil.copy(pack / "manifest.attestation.json", tmp_path / "bare")

    result = strict(tmp_path / "bare")

    assert (places(result), result.attested) == ([(Code.ATTESTATION_DIFFERS, "manifest.attestation.json", "")], ())


def test_a_manifest_cannot_refer_to_a_file_that_its_pack_does_not_have() -> None:
    digests = {"results/a.json": "1" * 64}

    assert reference(digests, "results/a.json") == {"path": "results/a.json", "digest": f"sha256:{'1' * 64}"}
    with pytest.raises(IntegrityError) as caught:
        reference(digests, "results/b.json")

    words = "referenced by the manifest, but not in the pack"
    assert caught.value.problems == (Problem(Code.REFERENCE_DANGLES, "results/b.json", "", words),)


def test_of_a_long_path_that_a_manifest_refers_to_only_the_beginning_is_shown() -> None:
    (problem,) = reference_problems({"subject": {"path": "x" * 200}}, {})

    assert problem.message == f"refers to {'x' * 100!r}, which is not in the pack"


@pytest.mark.parametrize("document", [[], {}, {"subject": 7}, {"selection": {"cases": [7]}, "scenarios": []}])
def test_a_pack_with_malformed_documents_can_be_inspected(document: Any, pack: Path) -> None:
    whole = inspect_pack(pack)
    for path in (REPORT, SCENARIOS, VERDICT):
        (pack / path).write_bytes(dump_json(document))
    (pack / REPORT).with_name("edit_metadata.json").unlink()

    found = inspect_pack(pack)

    assert (whole["verdict_claimed"], found["verdict_claimed"]) == ("PASS", None)
    assert found["reports"]["total"] == whole["reports"]["total"] == 3
