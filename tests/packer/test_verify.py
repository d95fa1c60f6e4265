"""What is done to a pack, and what a receiver is told."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.keys import fingerprint, make_signing_key
from invarlock.packer.signature import sign_manifest
from invarlock.packer.verify import VerifyOptions, VerifyResult, verify_pack

from invarlock.errors import UsageError
from invarlock.jsonio import dump_json

REPORT = "reports/embedded__mistral-tiny/noop_control/run_1/evaluation.report.json"
CONTROL = {"manifest.json": {4, 5}, "manifest.signature.json": {5}}
Reseal = Callable[[Path], None]


def strict(pack: Path, **options: Any) -> VerifyResult:
    return verify_pack(pack, VerifyOptions(strict=True, **options))


def messages(result: VerifyResult) -> str:
    return "\n".join(f"{error['where']}: {error['message']}" for error in result.errors)


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(dump_json(document))


def test_an_honest_pack_verifies_strictly(pack: Path, real_run: Any) -> None:
    result = strict(pack)

    assert (result.code, result.errors) == (0, [])
    assert (result.verdict, result.evidence_level, result.signer) == ("PASS", "high", fingerprint(real_run.key.public))
    assert result.authenticity == "unpinned"
    assert result.envelope is not None
    assert result.envelope["summary"] == {"ok": True, "reason": "ok"}
    assert [row["kind"] for row in result.envelope["results"]] == ["error_injection", "clean", "stress"]


def test_one_flipped_byte_in_any_file_is_noticed_with_the_code_of_its_class(pack: Path) -> None:
    files = sorted(path for path in pack.rglob("*") if path.is_file())
    wrong = {}
    for path in files:
        data = path.read_bytes()
        for position in (0, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :])
            code = strict(pack).code
            if code not in CONTROL.get(str(path.relative_to(pack)), {6}):
                wrong[str(path.relative_to(pack)), position] = code
        path.write_bytes(data)

    assert len(files) > 25
    assert wrong == {}
    assert strict(pack).code == 0


def test_sha256sum_finds_every_file_as_it_was_sealed(pack: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.sha256"], cwd=pack, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0
    assert done.stdout.count(": OK") == sum(path.is_file() for path in pack.rglob("*")) - 3


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("manifest.json", 3, "manifest.json: no such file"),
        ("checksums.sha256", 3, "checksums.sha256: no such file"),
        ("manifest.signature.json", 5, "the pack is not signed"),
        ("results/final_verdict.json", 6, "missing, checksums.sha256 has it"),
        (REPORT, 6, "missing, checksums.sha256 has it"),
    ],
)
def test_a_file_that_is_gone_is_named(pack: Path, name: str, code: int, message: str) -> None:
    (pack / name).unlink()

    result = strict(pack)

    assert result.code == code
    assert message in messages(result)
    assert verify_pack(pack, VerifyOptions()).code == code


def test_no_pack_is_a_missing_file(tmp_path: Path) -> None:
    assert strict(tmp_path / "none").code == 3
    (tmp_path / "file").write_text("")
    assert strict(tmp_path / "file").code == 3


def test_another_signer_than_expected_is_a_mismatch(pack: Path, real_run: Any) -> None:
    wrong = strict(pack, expected_fingerprint=f"sha256:{'0' * 64}")
    right = strict(pack, expected_fingerprint=fingerprint(real_run.key.public))

    assert (wrong.code, wrong.authenticity) == (5, "mismatch")
    assert (right.code, right.authenticity) == (0, "pinned")


def test_a_pack_signed_again_by_another_key_does_not_hold(pack: Path) -> None:
    sealed = (pack / "manifest.json").read_bytes()
    (pack / "manifest.signature.json").write_bytes(dump_json(sign_manifest(sealed, make_signing_key())))

    result = strict(pack)

    assert result.code == 5
    assert "signing_key_fingerprint is" in messages(result)


def test_a_file_that_was_not_sealed_fails_strictly_and_warns_otherwise(pack: Path) -> None:
    (pack / "notes.txt").write_text("added")

    assert (strict(pack).code, messages(strict(pack))) == (6, "notes.txt: not in checksums.sha256")
    loose = verify_pack(pack, VerifyOptions())
    assert (loose.code, loose.warnings[-1]) == (0, "notes.txt: not in checksums.sha256")


@pytest.mark.parametrize("kind", ["file link", "folder link", "pipe", "root link"])
def test_links_and_pipes_are_refused_and_nothing_hangs(pack: Path, tmp_path: Path, kind: str) -> None:
    target = pack / REPORT
    if kind == "file link":
        target.rename(tmp_path / "elsewhere.json")
        target.symlink_to(tmp_path / "elsewhere.json")
    elif kind == "folder link":
        target.parent.rename(tmp_path / "elsewhere")
        target.parent.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        target.unlink()
        os.mkfifo(target)
    else:
        (tmp_path / "link").symlink_to(pack)

    result = strict(tmp_path / "link" if kind == "root link" else pack)

    assert result.code == (3 if kind == "root link" else 6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}  /etc/passwd", "it is absolute"),
        ("{}  ../outside", "'..' segment"),
        ("{}  a/./b", "'..' segment"),
        ("{}  a//b", "'..' segment"),
        ("{}  a\\b", "backslash"),
        ("{}  a\tb", "control character"),
        ("{}  README.md", "appears twice"),
        ("{}  ReadMe.md", "differ only by case"),
        ("{}  manifest.json", "names the control file"),
        ("{} README.md2", "is not a digest, two spaces and a path"),
        ("", "is not a digest, two spaces and a path"),
        ("abc  x", "is not a digest, two spaces and a path"),
    ],
)
def test_a_line_of_the_checksums_that_is_unsafe_or_malformed_is_refused(
    pack: Path, real_run: Any, line: str, message: str
) -> None:
    path = pack / "checksums.sha256"
    path.write_text(path.read_text() + line.format("0" * 64) + "\n")
    sign_checksums(pack, real_run)

    result = strict(pack)

    assert result.code == 6
    assert message in messages(result)


def test_upper_case_digests_and_the_binary_marker_are_read(pack: Path, real_run: Any) -> None:
    path = pack / "checksums.sha256"
    lines = [line.split("  ") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{digest.upper()} *{name}\n" for digest, name in lines))
    sign_checksums(pack, real_run)

    assert strict(pack).code == 0


def sign_checksums(pack: Path, real_run: Any) -> None:
    import hashlib

    edit_json(
        pack / "manifest.json",
        lambda manifest: manifest.update(
            checksums_sha256_digest=hashlib.sha256((pack / "checksums.sha256").read_bytes()).hexdigest()
        ),
    )
    sealed = (pack / "manifest.json").read_bytes()
    (pack / "manifest.signature.json").write_bytes(dump_json(sign_manifest(sealed, real_run.key)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"format": 1, "format": 1}', "appears twice"),
        (b'{"format": NaN}', "NaN is not JSON"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 64 levels"),
        (b"{}{}", "Extra data"),
        (b"[]", "is not of type 'object'"),
        (b'{"format": "evidence-pack-v0"}', "'evidence-pack-v1' was expected"),
        (b'{"a": 1e999}', "too large for a float"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits is out of range"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_malformed_manifest_fails_before_its_signature_is_looked_at(pack: Path, data: bytes, message: str) -> None:
    (pack / "manifest.json").write_bytes(data)

    result = strict(pack)

    assert result.code == 4
    assert message in messages(result)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["signature"].update(value=s["signature"]["value"].rstrip("=")),
        lambda s: s["signature"].update(value=s["signature"]["value"] + "\n"),
        lambda s: s["signature"].update(value="AAAA"),
        lambda s: s["public_key"].update(value=s["public_key"]["value"].replace("\n", "\r\n")),
        lambda s: s["public_key"].update(value="-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"),
        lambda s: s.update(algorithm="none"),
        lambda s: s.update(format="evidence-pack-signature-v0"),
        lambda s: s.update(signing_key_fingerprint=f"sha256:{'0' * 64}"),
        lambda s: s.pop("public_key"),
    ],
)
def test_a_signature_file_that_is_not_canonical_is_refused(pack: Path, change: Callable[[Any], object]) -> None:
    edit_json(pack / "manifest.signature.json", change)

    assert strict(pack).code == 5


def test_unknown_fields_of_a_manifest_are_accepted(pack: Path, reseal: Reseal) -> None:
    edit_json(pack / "manifest.json", lambda manifest: manifest.update(colour="red"))
    reseal(pack)

    assert strict(pack).code == 0


def test_the_lowest_failing_class_decides(pack: Path) -> None:
    (pack / REPORT).write_text("{}")
    assert strict(pack).code == 6
    (pack / "manifest.signature.json").write_text("{}")
    assert strict(pack).code == 5
    (pack / "manifest.json").write_text("{}")
    assert strict(pack).code == 4
    (pack / "checksums.sha256").unlink()
    assert strict(pack).code == 3


def change_report(pack: Path, change: Callable[[Any], object]) -> None:
    edit_json(pack / REPORT, change)


LIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "ratio": (
        lambda p: change_report(p, lambda r: r["primary_metric"].update(ratio_vs_baseline=0.99)),
        "primary_metric.ratio_vs_baseline",
    ),
    "interval": (lambda p: change_report(p, lambda r: r["primary_metric"].update(ci=[1.0, 1.01])), "primary_metric.ci"),
    "limit": (
        lambda p: change_report(p, lambda r: r["resolved_policy"]["primary_metric"].update(ratio_limit=9.0)),
        "resolved_policy.primary_metric.ratio_limit",
    ),
    "flag": (lambda p: change_report(p, lambda r: r["validation"].update(spectral_stable=False)), "validation"),
    "caps": (lambda p: change_report(p, lambda r: r["spectral"]["metrics"].update(caps_applied=3)), "caps_applied"),
    "invariants": (lambda p: change_report(p, lambda r: r["invariants"].update(status="warn")), "invariants.status"),
    "tier": (lambda p: change_report(p, lambda r: r["policy_provenance"].update(tier="aggressive")), "resolved_policy"),
    "subject's loss": (
        lambda p: change_report(p, lambda r: r["evaluation_windows"]["final"]["logloss"].__setitem__(0, 1.0)),
        "primary_metric",
    ),
    "baseline's loss": (
        lambda p: change_report(p, lambda r: r["evaluation_windows"]["final"]["baseline_logloss"].__setitem__(0, 1.0)),
        "primary_metric",
    ),
    "verdict": (
        lambda p: edit_json(p / "results/final_verdict.json", lambda v: v.update(verdict="FAIL")),
        "results/final_verdict.json: verdict",
    ),
    "count": (
        lambda p: edit_json(p / "results/final_verdict.json", lambda v: v["counts"].update(clean_total=7)),
        "counts.clean_total",
    ),
    "verdict text": (
        lambda p: (p / "results/final_verdict.txt").write_text("Verdict: PASS\n") and None,
        "results/final_verdict.txt",
    ),
    "summary": (
        lambda p: edit_json(p / "results/category_summary.json", lambda s: s["clean"].update(passed=9)),
        "results/category_summary.json: clean.passed",
    ),
    "seconds": (
        lambda p: edit_json(
            p / "results/analysis/evaluation_optimization_summary.json", lambda s: s.update(reports=99)
        ),
        "evaluation_optimization_summary.json: reports",
    ),
    "report verification": (
        lambda p: edit_json((p / REPORT).with_name("verify.json"), lambda v: v["results"][0].update(ok=False)),
        "verify.json",
    ),
    "readme": (
        lambda p: (p / "README.md").write_text((p / "README.md").read_text().replace("3 of 3", "4 of 4")) and None,
        "README.md",
    ),
    "timing": (
        lambda p: edit_json((p / REPORT).with_name("evaluate_timing.json"), lambda t: t.update(score_seconds=0.0)),
        "evaluate_timing.json",
    ),
    "count of clean reports": (
        lambda p: edit_json(p / "manifest.json", lambda m: m["verification"].update(clean_reports=5)),
        "verification.clean_reports",
    ),
    "models": (lambda p: edit_json(p / "manifest.json", lambda m: m.update(model_list=["a/b"])), "model_list"),
    "weaker scenario": (
        lambda p: edit_json(
            p / "metadata/scenarios.json", lambda s: s["scenarios"][0].update(strictness="informational")
        ),
        "results/final_verdict.json",
    ),
    "smaller selection": (
        lambda p: edit_json(p / "metadata/scenarios.json", lambda s: s["selection"]["cases"].pop()),
        "results/final_verdict.json: counts.cases_total",
    ),
    "pytest's account": (
        lambda p: edit_json(p / "metadata/pytest_report.json", lambda r: r["tests"][0].update(outcome="failed")),
        "results/final_verdict.json",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_claim_that_does_not_follow_is_found_though_all_is_sealed_again(pack: Path, reseal: Reseal, lie: str) -> None:
    change, where = LIES[lie]
    change(pack)
    reseal(pack)

    result = strict(pack)

    assert result.code == 7, messages(result)
    assert where in messages(result)


def test_a_level_of_evidence_that_the_pack_does_not_support_is_refused(pack: Path, reseal: Reseal) -> None:
    edit_json(pack / "manifest.json", lambda manifest: manifest["invocation"].pop("config_source"))
    reseal(pack)

    result = strict(pack)

    assert result.code == 7
    assert "evidence_level high is claimed, medium is what the pack supports" in messages(result)


def test_a_raw_loss_changed_with_all_that_follows_is_not_the_baselines(pack: Path, reseal: Reseal) -> None:
    from invarlock.reports.derivation import compose, strip

    report = json.loads((pack / REPORT).read_bytes())
    report["evaluation_windows"]["final"]["baseline_logloss"][0] += 0.5
    (pack / REPORT).write_bytes(dump_json(compose(strip(report))))
    reseal(pack)

    assert "baseline_logloss: not what the baseline's report measured" in messages(strict(pack))


def test_a_signed_runtime_manifest_of_another_report_is_found(pack: Path, reseal: Reseal) -> None:
    reseal_first = (pack / REPORT).with_name("runtime.manifest.json")
    reseal(pack)
    edit_json(reseal_first, lambda document: document["report"].update(path="reports/a/b/c/evaluation.report.json"))
    reseal(pack)

    assert "report.path is" in messages(strict(pack))


@pytest.mark.parametrize(
    ("field", "value"),
    [("subject_digest", f"sha256:{'1' * 64}"), ("edit_type", "quant_rtn"), ("packed_quantized_storage", True)],
)
def test_edit_metadata_that_disagrees_with_its_report_is_an_integrity_failure(
    pack: Path, reseal: Reseal, field: str, value: Any
) -> None:
    edit_json((pack / REPORT).with_name("edit_metadata.json"), lambda document: document.update({field: value}))
    reseal(pack)

    assert strict(pack).code == 6


def test_strict_report_assurance_asks_for_a_container(pack: Path) -> None:
    result = strict(pack, report_assurance="strict")

    assert result.code == 7
    assert "needs execution in a container with an image digest" in messages(result)


def test_without_report_assurance_only_bytes_are_checked(pack: Path, reseal: Reseal) -> None:
    change_report(pack, lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5))
    reseal(pack)

    result = verify_pack(pack, VerifyOptions(report_assurance="off"))

    assert (result.code, result.reports_verified, result.envelope) == (0, False, None)
    assert "reports were not verified" in result.warnings[-1]
    with pytest.raises(UsageError, match="exclude each other"):
        verify_pack(pack, VerifyOptions(strict=True, report_assurance="off"))


def test_verifying_writes_nothing_into_the_pack(pack: Path) -> None:
    def tree() -> dict[str, tuple[int, bytes]]:
        files = (path for path in pack.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = tree()

    assert strict(pack).code == 0
    assert tree() == before


REFUSE_TORCH = (
    "import sys\n"
    "class Refuse:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.split('.')[0] in ('torch', 'transformers', 'safetensors', 'pytest', '_pytest'):\n"
    "            raise AssertionError(f'{name} was imported')\n"
    "sys.meta_path.insert(0, Refuse())\n"
    "from invarlock.packer.cli import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def packer(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the packer in a process where importing PyTorch or pytest is an error."""
    command = [sys.executable, "-c", REFUSE_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_no_command_imports_pytorch(pack: Path, real_run: Any, tmp_path: Path) -> None:
    run = real_run.directory
    reports = sorted(run.glob("embedded__*/reports/**/evaluation.report.json"))
    baselines = list(run.glob("embedded__*/baseline/evaluation.report.json"))
    state = run / "state"

    made = packer("keygen", tmp_path / "mine")
    built = packer(
        "build", tmp_path / "built", "--final-verdict", run / "reports/final_verdict.json", "--report", *reports,
        "--baseline", *baselines, "--scenarios", state / "scenarios.json", "--pytest-report",
        state / "pytest_report.json", "--source-repo", state / "source_repo.json", "--environment",
        state / "environment.json", "--material", f"plan={state / 'plan.json'}", "--signing-key", tmp_path / "mine.pem",
    )  # fmt: skip
    checked = packer("verify", tmp_path / "built", "--strict", "--report-assurance", "report")
    looked = packer("inspect", pack, "--json")

    assert made.returncode == 0, made.stderr
    assert built.returncode == 0, built.stderr
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.startswith(f"VERIFIED: {tmp_path / 'built'}\nverdict: PASS\nstrong evidence: no, missing: ")
    assert json.loads(looked.stdout)["verdict_claimed"] == "PASS"
    assert json.loads(looked.stdout)["verified"] is False


def test_the_result_as_json_has_the_fields_of_its_format(pack: Path, tmp_path: Path) -> None:
    done = packer("verify", pack, "--json", "--json-out", tmp_path / "result.json")

    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "result.json").read_bytes())
    assert set(document) == {
        "pack", "ok", "integrity_ok", "reports_verified", "verification_scope", "assurance_status", "strict",
        "report_assurance", "warnings", "errors", "evidence_level", "authenticity", "signer_fingerprint", "trust_store",
        "verdict", "verify", "attested", "strong_evidence",
    }  # fmt: skip
    inside = packer("verify", pack, "--json-out", pack / "result.json")
    assert (inside.returncode, (pack / "result.json").exists()) == (2, False)


def test_usage_errors_have_their_code_and_one_line(pack: Path, tmp_path: Path) -> None:
    assert packer("verify", pack, "--strict", "--report-assurance", "off").returncode == 2
    assert packer("verify", pack, "--expected-fingerprint", "abc").returncode == 2
    assert packer("verify").returncode == 2
    done = packer("verify", pack, "--trust-store", tmp_path / "none.json")
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (3, 1, False)


def test_quiet_says_it_with_the_exit_code_alone(pack: Path) -> None:
    done = packer("verify", pack, "-q")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
