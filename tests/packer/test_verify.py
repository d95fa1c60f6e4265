"""Options and output of ``verify``. Attacks on packs are in ``test_attacks.py``."""

import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.progress import ProgressLine
from invarlock.packer.trust.keys import fingerprint
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import (
    REPORT,
    TIME,
    VERDICT,
    content,
    edit_json,
    places,
    sign,
    strict,
)
from processes import light, packer

from invarlock.errors import UsageError
from invarlock.problems import Code

CONTROL = {"manifest.json": {4, 5}, "manifest.signature.json": {5}}
Reseal = Callable[[Path], None]


def test_an_honest_pack_verifies_strictly(pack: Path, real_run: Any) -> None:
    result = strict(pack)

    assert (result.code, result.problems) == (0, ())
    assert (result.verdict, result.evidence_level, result.signer) == ("PASS", "high", fingerprint(real_run.key.public))
    assert result.authenticity == "unpinned"
    assert result.envelope is not None
    assert result.envelope["summary"] == {"ok": True, "reason": "ok"}
    assert [row["kind"] for row in result.envelope["results"]] == ["error_injection", "clean", "stress"]


def test_one_flipped_byte_in_any_file_is_noticed_with_the_code_of_its_class(pack: Path) -> None:
    files = sorted(path for path in pack.rglob("*") if path.is_file())
    wrong = {}
    for number, path in enumerate(files):
        data = path.read_bytes()
        positions = (0, len(data) // 2, len(data) - 1)
        # a digest covers every byte in the same way, but in a control file the problem depends on the position
        for position in positions if str(path.relative_to(pack)) in CONTROL else positions[number % 3 :][:1]:
            path.write_bytes(data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :])
            code = strict(pack).code
            if code not in CONTROL.get(str(path.relative_to(pack)), {6}):
                wrong[str(path.relative_to(pack)), position] = code
        path.write_bytes(data)

    assert len(files) > 25
    assert wrong == {}
    assert strict(pack).code == 0


def test_sha256sum_accepts_every_sealed_file(pack: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.sha256"], cwd=pack, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0
    assert done.stdout.count(": OK") == sum(path.is_file() for path in pack.rglob("*")) - 4


def test_a_missing_pack_is_a_missing_file(tmp_path: Path) -> None:
    assert strict(tmp_path / "none").code == 3
    (tmp_path / "file").write_text("")
    assert strict(tmp_path / "file").code == 3


def test_another_signer_than_expected_is_a_mismatch(pack: Path, real_run: Any) -> None:
    wrong = strict(pack, expected_fingerprint=f"sha256:{'0' * 64}")
    right = strict(pack, expected_fingerprint=fingerprint(real_run.key.public))

    assert (wrong.code, wrong.authenticity) == (5, "mismatch")
    assert (right.code, right.authenticity) == (0, "pinned")


def test_a_file_that_was_not_sealed_fails_strictly_and_warns_otherwise(pack: Path) -> None:
    (pack / "notes.txt").write_text("added")

    assert places(strict(pack)) == [(Code.FILE_NOT_SEALED, "notes.txt", "")]
    loose = verify_pack(pack, VerifyOptions())
    assert (loose.code, loose.warnings[-1]) == (0, "notes.txt: not in checksums.sha256")


def test_upper_case_digests_and_the_binary_marker_are_read(pack: Path, real_run: Any) -> None:
    path = pack / "checksums.sha256"
    lines = [line.split("  ") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{digest.upper()} *{name}\n" for digest, name in lines))
    sign(pack, json.loads((pack / "manifest.json").read_bytes()), real_run.key)

    assert strict(pack).code == 0


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


def test_a_result_says_that_reports_were_verified_unless_only_bytes_were_checked(pack: Path) -> None:
    whole, bytes_alone = (verify_pack(pack, VerifyOptions(report_assurance=one)) for one in ("report", "off"))

    assert (whole.code, whole.reports_verified) == (0, True)
    assert (bytes_alone.code, bytes_alone.reports_verified) == (0, False)


def test_without_report_assurance_only_bytes_are_checked(pack: Path, reseal: Reseal) -> None:
    edit_json(pack / REPORT, lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5))
    reseal(pack)

    result = verify_pack(pack, VerifyOptions(report_assurance="off"))

    assert (result.code, result.reports_verified, result.envelope) == (0, False, None)
    assert "reports were not verified" in result.warnings[-1]
    with pytest.raises(UsageError, match="cannot be combined"):
        verify_pack(pack, VerifyOptions(strict=True, report_assurance="off"))


@pytest.mark.parametrize(("claimed", "verdict"), [("PASS", "PASS"), ("FAIL", "FAIL"), ("GOOD", None), (7, None)])
def test_without_report_assurance_the_verdict_is_what_the_pack_claims(
    claimed: Any, verdict: str | None, pack: Path, reseal: Reseal
) -> None:
    edit_json(pack / VERDICT, lambda document: document.update(verdict=claimed))
    reseal(pack)

    result, required = (
        verify_pack(pack, VerifyOptions(report_assurance="off", require_pass=one)) for one in (False, True)
    )

    assert (result.code, result.verdict) == (0, verdict)
    assert places(required) == ([] if claimed == "PASS" else [(Code.PASS_REQUIRED, VERDICT, "")])


def test_verifying_writes_nothing_into_the_pack(pack: Path) -> None:
    def tree() -> dict[str, tuple[int, bytes]]:
        files = (path for path in pack.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = tree()

    assert strict(pack).code == 0
    assert tree() == before


def test_no_command_imports_pytorch(pack: Path, real_run: Any, tmp_path: Path) -> None:
    run = real_run.directory
    reports = sorted(run.glob("embedded__*/reports/**/evaluation.report.json"))
    baselines = list(run.glob("embedded__*/baseline/evaluation.report.json"))
    state, built, key = run / "state", tmp_path / "built", tmp_path / "mine.pem"
    commands = (
        ("keygen", tmp_path / "mine"),
        ("build", built, "--final-verdict", run / "reports/final_verdict.json", "--report", *reports, "--baseline",
         *baselines, "--pytest-report", state / "pytest_report.json", "--source-repo", state / "source_repo.json",
         "--environment", state / "environment.json", "--presets", run / "presets",
         "--material", f"plan={state / 'plan.json'}"),
        ("sign", built, "--signing-key", key),
        ("attest", built, "--signing-key", key),
        ("trust", "add", f"{tmp_path / 'mine'}.pub.pem", "--name", "me", "--trust-store", tmp_path / "store.json"),
        ("verify", built, "--strict", "--report-assurance", "report", "--trust-store", tmp_path / "store.json"),
        ("diff", built, pack),
        ("inspect", built),
    )  # fmt: skip

    done = light("packer", commands)

    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * len(commands)
    verified = done[5].stdout
    assert verified.startswith(f"VERIFIED: {built}\nverdict: PASS\ncovered: 1 edit that must pass, ")
    assert "\nstrong evidence: no, missing: strict report assurance" in verified
    assert "(pinned), attested" in verified
    assert done[6].stdout.splitlines()[0] == "verdict: PASS, in both packs"
    assert done[6].stdout.splitlines()[2:] == ["3 cases compared, 0 differ"]
    assert "NOT VERIFIED" in done[7].stdout


def test_the_result_as_json_has_the_fields_of_its_format(pack: Path, tmp_path: Path) -> None:
    done = packer("verify", pack, "--json", "--json-out", tmp_path / "result.json")

    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "result.json").read_bytes())
    assert set(document) == {
        "pack", "ok", "integrity_ok", "reports_verified", "verification_scope", "assurance_status", "strict",
        "report_assurance", "warnings", "errors", "errors_left_out", "evidence_level",
        "authenticity", "signer_fingerprint", "trust_store",
        "verdict", "verify", "time", "attested", "attested_predicates", "strong_evidence", "signed",
        "stated_by_servers", "exit_code",
    }  # fmt: skip
    inside = packer("verify", pack, "--json-out", pack / "result.json")
    assert (inside.returncode, (pack / "result.json").exists()) == (2, False)


def test_usage_errors_have_their_code_and_one_line(pack: Path, tmp_path: Path) -> None:
    assert packer("verify", pack, "--strict", "--report-assurance", "off").returncode == 2
    assert packer("verify", pack, "--expected-fingerprint", "abc").returncode == 2
    assert packer("verify").returncode == 2
    done = packer("verify", pack, "--trust-store", tmp_path / "none.json")
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (3, 1, False)


def test_quiet_gives_the_exit_code_alone(pack: Path) -> None:
    done = packer("verify", pack, "-q")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_of_several_packs_the_highest_code_counts(pack: Path, real_run: Any, tmp_path: Path) -> None:
    edit_json(pack / REPORT, lambda report: report["primary_metric"].update(ratio_vs_baseline=2.0))

    done = packer("verify", real_run.pack, pack, "--json")
    printed = packer("verify", real_run.pack, pack, tmp_path / "none")

    assert (done.returncode, [row["ok"] for row in json.loads(done.stdout)]) == (6, [True, False])
    assert printed.returncode == 6
    assert printed.stdout.count("VERIFIED: ") == 1
    assert printed.stdout.count("NOT VERIFIED (exit code") == 2


@pytest.fixture
def failed(run: Path, real_run: Any, tmp_path: Path) -> Path:
    """An honest pack with the verdict FAIL, because one of its cases was never run."""
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    files.pop("metadata/pytest_report.json")
    left = replace(whole, files=files, claimed_verdict=None)
    assert build_pack(tmp_path / "failed", left, real_run.key, TIME).verdict == "FAIL"
    return tmp_path / "failed"


def test_an_honest_pack_with_a_verdict_of_fail_verifies_unless_a_pass_is_required(failed: Path) -> None:
    assert (strict(failed).code, strict(failed).verdict) == (0, "FAIL")
    assert "verdict PASS" in "; ".join(strict(failed).missing_for_strong)

    required = strict(failed, require_pass=True)

    assert (required.code, places(required)) == (7, [(Code.PASS_REQUIRED, "results/final_verdict.json", "")])


def test_a_progress_bar_is_for_terminals_and_for_packs_that_take_their_time() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def drawn(stream: io.StringIO, patience_seconds: float) -> str:
        with ProgressLine(stream, "verifying pack", patience_seconds) as line:
            line.start(100)(40)
        return stream.getvalue()

    assert drawn(io.StringIO(), 0.0) == ""
    assert drawn(Terminal(), 60.0) == ""
    assert " 40% of 0 MB" in drawn(Terminal(), 0.0)
    assert drawn(Terminal(), 0.0).endswith("\r\x1b[K")
