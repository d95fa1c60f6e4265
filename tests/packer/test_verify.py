"""What a receiver asks for, and what they are told. What is done to packs is in ``test_attacks.py``."""

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build import PackContent, build_pack
from invarlock.packer.checksums import CONTROL_FILES, write_checksums
from invarlock.packer.evidence import absent
from invarlock.packer.inspection import inspect_pack
from invarlock.packer.keys import SigningKey, fingerprint
from invarlock.packer.progress import ProgressLine
from invarlock.packer.signing import attest_pack
from invarlock.packer.trust import parse_moment
from invarlock.packer.verify import VerifyOptions, VerifyResult, verify_pack
from packs import (
    FAULT,
    REPORT,
    STRESS,
    TIME,
    contain,
    content,
    edit_json,
    messages,
    pack_files,
    packer,
    seal,
    sha256,
    sign,
    strict,
)

from invarlock.errors import UsageError
from invarlock.jsonio import dump_json
from invarlock.verdict.compiling import Planned

CONTROL = {"manifest.json": {4, 5}, "manifest.signature.json": {5}}
Reseal = Callable[[Path], None]


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
    assert done.stdout.count(": OK") == sum(path.is_file() for path in pack.rglob("*")) - 4


def test_no_pack_is_a_missing_file(tmp_path: Path) -> None:
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

    assert (strict(pack).code, messages(strict(pack))) == (6, "notes.txt: not in checksums.sha256")
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


def test_strict_report_assurance_asks_for_a_container(pack: Path) -> None:
    result = strict(pack, report_assurance="strict")

    assert result.code == 7
    assert "strict report assurance needs execution of a clean case in a container" in messages(result)


def test_strict_report_assurance_asks_it_of_every_clean_report_and_inspect_says_so(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    whole = content(run)
    for name, outside in (("all", None), ("but_a_fault", FAULT), ("but_a_stress", STRESS), ("but_a_clean_one", REPORT)):
        files = contain(dict(whole.files))
        if outside is not None:
            run_without_an_image(files, outside)
        pack = build_pack(tmp_path / name, replace(whole, files=files, claimed_verdict=None), real_run.key, TIME).path

        result = strict(pack, report_assurance="strict")

        against = ["1 of 1 clean reports not from a container"] if outside == REPORT else []
        assert inspect_pack(pack)["strict_readiness"] == {"ready": not against, "against": against}
        assert (result.code, strict(pack).code) == (7 if against else 0, 0), name
        sidecar = REPORT.replace("evaluation.report", "runtime.manifest")
        assert [error["where"] for error in result.errors] == [sidecar] * len(against)


def run_without_an_image(files: dict[str, bytes], report: str) -> None:
    """Take the image's digest from the runtime manifest of a report."""
    sidecar = report.replace("evaluation.report", "runtime.manifest")
    runtime = json.loads(files[sidecar])
    runtime["runtime"]["image_digest"] = None
    files[sidecar] = dump_json(runtime)


def test_without_report_assurance_only_bytes_are_checked(pack: Path, reseal: Reseal) -> None:
    edit_json(pack / REPORT, lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5))
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

    done = [packer(*command) for command in commands]

    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * len(commands)
    verified = done[5].stdout
    assert verified.startswith(f"VERIFIED: {built}\nverdict: PASS\nasked: 1 edit that must pass, ")
    assert "\nstrong evidence: no, missing: strict report assurance" in verified
    assert "(pinned), attested" in verified
    assert done[6].stdout == "3 cases compared, 0 differ\n"
    assert "not verified, this is what it says of itself" in done[7].stdout


def test_the_result_as_json_has_the_fields_of_its_format(pack: Path, tmp_path: Path) -> None:
    done = packer("verify", pack, "--json", "--json-out", tmp_path / "result.json")

    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "result.json").read_bytes())
    assert set(document) == {
        "pack", "ok", "integrity_ok", "reports_verified", "verification_scope", "assurance_status", "strict",
        "report_assurance", "warnings", "errors", "evidence_level", "authenticity", "signer_fingerprint", "trust_store",
        "verdict", "verify", "attested", "strong_evidence", "signed", "exit_code",
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


def test_of_several_packs_the_highest_code_counts(pack: Path, real_run: Any, tmp_path: Path) -> None:
    edit_json(pack / REPORT, lambda report: report["primary_metric"].update(ratio_vs_baseline=2.0))

    done = packer("verify", real_run.pack, pack, "--json")
    told = packer("verify", real_run.pack, pack, tmp_path / "none")

    assert (done.returncode, [row["ok"] for row in json.loads(done.stdout)]) == (6, [True, False])
    assert told.returncode == 6
    assert told.stdout.count("VERIFIED: ") == 1
    assert told.stdout.count("NOT VERIFIED (exit code") == 2


@pytest.fixture
def failed(run: Path, real_run: Any, tmp_path: Path) -> Path:
    """An honest pack whose verdict is FAIL: one of its cases was never run."""
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

    assert (required.code, messages(required)) == (
        7,
        "results/final_verdict.json: the verdict is FAIL, PASS is required",
    )


@pytest.fixture
def contained(run: Path, real_run: Any, tmp_path: Path) -> Path:
    """An honest pack of three reports from a container, which claims strict report assurance."""
    whole = content(run)
    inside = replace(whole, files=contain(dict(whole.files)), claimed_verdict=None, report_assurance="strict")
    return build_pack(tmp_path / "contained", inside, real_run.key, TIME).path


@pytest.mark.parametrize("name", ["signing_key_fingerprint", None])
@pytest.mark.parametrize("strictly", [True, False])
def test_a_pinned_signer_is_never_satisfied_by_a_pack_without_a_signature(
    pack: Path, real_run: Any, name: str | None, strictly: bool
) -> None:
    (pack / "manifest.signature.json").unlink()
    edit_json(pack / "manifest.json", lambda manifest: manifest.pop(name, None))
    pinned = VerifyOptions(strict=strictly, expected_fingerprint=fingerprint(real_run.key.public))

    result = verify_pack(pack, pinned)

    assert (result.code, result.authenticity, result.signer) == (5, "unpinned", None)
    assert "missing, the pack is not signed" in messages(result)


@pytest.mark.parametrize("options", [{}, {"strict": True}, {"report_assurance": "off"}, {"report_assurance": "strict"}])
def test_a_pack_without_a_signature_is_refused_in_every_mode(
    run: Path, tmp_path: Path, real_run: Any, options: dict[str, Any]
) -> None:
    unsigned = build_pack(tmp_path / "unsigned", content(run), None, TIME).path
    store = tmp_path / "store.json"
    store.write_text(json.dumps([fingerprint(real_run.key.public)]))

    for trust in ({}, {"trust_store": store}, {"default_store": store}):
        result = verify_pack(unsigned, VerifyOptions(**options, **trust))
        assert (result.code, result.ok, result.reports_verified) == (5, False, False)
        assert "its maker signs it with a key" in messages(result)


def test_an_unsigned_pack_is_never_ok_without_a_word_that_it_is_unsigned(run: Path, tmp_path: Path) -> None:
    unsigned = build_pack(tmp_path / "unsigned", content(run), None, TIME).path

    said = packer("verify", unsigned, "--allow-unsigned", "--json-out", tmp_path / "verified.json")
    document = json.loads((tmp_path / "verified.json").read_bytes())

    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith("NOT SIGNED, though what was checked holds: ")
    assert "VERIFIED" not in said.stdout
    assert "\nsigner: none" in said.stdout
    # who reads only `ok` does not take it for a pack that somebody answers for
    assert (document["ok"], document["signed"], document["exit_code"]) == (False, False, 0)
    assert (document["authenticity"], document["signer_fingerprint"]) == ("unsigned", None)
    assert (document["integrity_ok"], document["reports_verified"], document["errors"]) == (True, True, [])
    assert document["strong_evidence"]["ok"] is False


@pytest.mark.parametrize(
    "option", [{"strict": True}, {"expected_fingerprint": f"sha256:{'0' * 64}"}, {"trust_store": Path("none.json")}]
)
def test_allowing_unsigned_packs_excludes_what_asks_for_a_signer(pack: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--allow-unsigned and --.* exclude each other"):
        verify_pack(pack, VerifyOptions(allow_unsigned=True, **option))


def test_a_signed_pack_is_judged_alike_where_unsigned_ones_are_allowed(
    pack: Path, real_run: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store.json"
    allowed = VerifyOptions(allow_unsigned=True, default_store=store)

    for entry, code in (({}, 0), ({"revoked": True}, 5)):
        store.write_text(json.dumps([{"fingerprint": fingerprint(real_run.key.public), **entry}]))
        assert verify_pack(pack, allowed).code == code
    (pack / "manifest.signature.json").unlink()
    assert verify_pack(pack, allowed).code == 5, "the manifest names its signer"


@pytest.mark.parametrize(
    ("entries", "as_default", "as_named"),
    [
        ([], 0, 5),
        ([{"fingerprint": f"sha256:{'1' * 64}"}], 0, 5),
        ([{}], 0, 0),
        ([{"revoked": True}], 5, 5),
        ([{}, {"revoked": True}], 5, 5),
        ([{"not_after": "2020-01-01"}], 5, 5),
    ],
)
def test_a_fingerprint_that_is_expected_holds_unless_the_default_store_refuses_it(
    pack: Path, real_run: Any, tmp_path: Path, entries: list[dict[str, Any]], as_default: int, as_named: int
) -> None:
    signer, store = fingerprint(real_run.key.public), tmp_path / "store.json"
    store.write_text(json.dumps([{"fingerprint": signer, **entry} for entry in entries]))

    by_default = strict(pack, expected_fingerprint=signer, default_store=store)
    named = strict(pack, expected_fingerprint=signer, trust_store=store)

    assert (by_default.code, named.code) == (as_default, as_named)
    assert (by_default.authenticity == "pinned", named.authenticity == "pinned") == (not as_default, not as_named)
    # without an expected fingerprint the default store is what decides
    assert strict(pack, default_store=store).code == as_named
    assert strict(pack, expected_fingerprint=f"sha256:{'2' * 64}", default_store=store).code == 5


def test_the_default_store_is_read_where_none_is_named(
    pack: Path, real_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / ".config/invarlock/trusted-signers.json"
    store.parent.mkdir(parents=True)
    store.write_text(json.dumps([{"fingerprint": f"sha256:{'1' * 64}"}]))
    monkeypatch.setenv("HOME", str(tmp_path))

    assert packer("verify", pack).returncode == 5
    assert packer("verify", pack, "--expected-fingerprint", fingerprint(real_run.key.public)).returncode == 0
    store.write_text(json.dumps([{"fingerprint": fingerprint(real_run.key.public), "revoked": True}]))
    assert packer("verify", pack, "--expected-fingerprint", fingerprint(real_run.key.public)).returncode == 5


def test_strict_assurance_is_claimed_for_every_clean_report_and_of_at_least_one(
    contained: Path, run: Path, real_run: Any, tmp_path: Path, reseal: Reseal
) -> None:
    whole = content(run)
    claimed = "verification.report_assurance strict is claimed"
    assert strict(contained).code == 0

    for number, (path, code) in enumerate(((REPORT, 7), (FAULT, 0), (STRESS, 0))):
        files = contain(dict(whole.files))
        run_without_an_image(files, path)
        folder = tmp_path / f"without_{number}"
        pack = build_pack(folder, replace(whole, files=files, claimed_verdict=None), real_run.key, TIME).path
        edit_json(pack / "manifest.json", lambda manifest: manifest["verification"].update(report_assurance="strict"))
        reseal(pack)
        assert (strict(pack).code, claimed in messages(strict(pack))) == (code, code == 7)

    faults = {name: data for name, data in contain(dict(whole.files)).items() if "noop_control" not in name}
    faults.pop("metadata/pytest_report.json")
    pack = build_pack(tmp_path / "faults", replace(whole, files=faults, claimed_verdict=None), real_run.key, TIME).path
    assert strict(pack).code == 0
    edit_json(pack / "manifest.json", lambda manifest: manifest["verification"].update(report_assurance="strict"))
    reseal(pack)
    assert (strict(pack).code, claimed in messages(strict(pack))) == (7, True)


@pytest.fixture
def complete(run: Path) -> PackContent:
    """What a pack of three reports from a container is made of, with all that says where it comes from."""
    whole = content(run)
    origins = {f"metadata/{name}.json": run / "state" / f"{name}.json" for name in ("model_revisions", "scenarios")}
    files = {**contain(dict(whole.files)), **{path: source.read_bytes() for path, source in origins.items()}}
    return replace(whole, files=files, claimed_verdict=None, report_assurance="strict")


def strongly(pack: Path, key: SigningKey) -> VerifyResult:
    """Verify a pack as strong evidence is."""
    return strict(pack, report_assurance="strict", expected_fingerprint=fingerprint(key.public))


def test_strong_evidence_lacks_nothing(complete: PackContent, real_run: Any, tmp_path: Path) -> None:
    built = build_pack(tmp_path / "strong", complete, real_run.key, TIME)
    pack, signer = built.path, fingerprint(real_run.key.public)

    strong = strongly(pack, real_run.key)

    assert (strong.code, strong.missing_for_strong, strong.strong) == (0, [], True), messages(strong)
    assert strong.evidence == [
        "asked: 1 edit that must pass, 1 that must fail, 1 fault that must be detected, on 1 model",
        "not asked: a second model",
        "strong evidence: yes",
    ]
    assert built.evidence[2].startswith("strong evidence: yes, for a receiver who pins the signer")
    for weaker, missing in (
        (strict(pack, report_assurance="strict"), "a pinned signer"),
        (strict(pack, expected_fingerprint=signer), "strict report assurance"),
        (verify_pack(pack, VerifyOptions(report_assurance="strict", expected_fingerprint=signer)), "strict checks"),
    ):
        assert (weaker.code, weaker.strong, len(weaker.missing_for_strong)) == (0, False, 1)
        assert weaker.missing_for_strong[0].startswith(missing)


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("metadata/model_revisions.json", ["pins of the models (metadata/model_revisions.json)"]),
        ("metadata/pytest_report.json", ["pytest's account of the cases (metadata/pytest_report.json)"]),
        (
            "metadata/environment.json",
            ["the environment (metadata/environment.json)", "in the manifest: environment"],
        ),
        (
            "metadata/source_repo.json",
            ["the source (metadata/source_repo.json)", "in the manifest: invocation.config_source"],
        ),
    ],
)
def test_strong_evidence_names_each_file_that_is_not_there(
    complete: PackContent, real_run: Any, tmp_path: Path, path: str, missing: list[str]
) -> None:
    less = replace(complete, files={name: data for name, data in complete.files.items() if name != path})
    built = build_pack(tmp_path / "less", less, real_run.key, TIME)

    result = strongly(built.path, real_run.key)

    assert (result.code, result.strong, result.missing_for_strong) == (0, False, missing)
    assert built.evidence[2] == f"strong evidence: no, missing: {'; '.join(missing)}"


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda m: m.pop("models"), "in the manifest: models"),
        (lambda m: m.pop("verification_baselines"), "in the manifest: verification_baselines"),
        (lambda m: m["verification"].pop("failed_reports"), "in the manifest: verification.failed_reports"),
        (lambda m: m["subject"].pop("digest"), "in the manifest: subject.digest"),
        (lambda m: m.pop("invocation"), "in the manifest: invocation.config_source"),
        (
            lambda m: [m.pop(name) for name in ("generated_at", "suite", "invarlock_version")],
            "in the manifest: generated_at, invarlock_version, suite",
        ),
    ],
)
def test_strong_evidence_names_each_block_of_the_manifest_that_is_not_there(
    complete: PackContent, real_run: Any, tmp_path: Path, change: Callable[[Any], object], missing: str
) -> None:
    pack = build_pack(tmp_path / "pack", complete, real_run.key, TIME).path
    (pack / "README.md").unlink()
    seal(pack, real_run.key)
    manifest = {**json.loads((pack / "manifest.json").read_bytes()), "evidence_level": "low"}
    change(manifest)
    sign(pack, manifest, real_run.key)

    result = strongly(pack, real_run.key)

    assert (result.code, result.strong, result.missing_for_strong) == (0, False, [missing]), messages(result)


def test_tuned_parameters_are_missed_where_a_clean_edit_used_them() -> None:
    def planned(spec: str) -> dict[str, Planned]:
        case = {"model": "a/b", "scenario": "s", "run": 1}
        return {"p": Planned("p", case, {"generation": {"kind": "edit", "edit_spec": spec}})}

    def named(spec: str, *files: str) -> bool:
        return any("tuned parameters" in line for line in absent({}, files, planned(spec)))

    assert named("quant_rtn:clean:ffn")
    assert not named("quant_rtn:clean:ffn", "metadata/tuned_edit_params.json")
    assert not named("quant_rtn:8:128:all")


def test_people_are_told_one_scale_what_was_asked_and_what_was_not(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    files.pop("metadata/pytest_report.json")
    scenarios = json.loads(files["metadata/scenarios.json"])
    scenarios["selection"]["cases"] = [
        case for case in scenarios["selection"]["cases"] if case["scenario"] == "noop_control"
    ]
    scenarios["selection"]["scenario_ids"] = ["noop_control"]
    scenarios["scenarios"] = [row for row in scenarios["scenarios"] if row["id"] == "noop_control"]
    files = {path: data for path, data in files.items() if "prune_50pct_stress" not in path}
    files["metadata/scenarios.json"] = dump_json(scenarios)

    built = build_pack(tmp_path / "noop", replace(whole, files=files, claimed_verdict=None), None, TIME)
    verified = packer("verify", built.path, "--allow-unsigned").stdout
    inspected = packer("inspect", built.path).stdout
    readme = (built.path / "README.md").read_text()

    asked = "asked: 1 edit that must pass, on 1 model"
    lacking = (
        "whether a destructive edit fails; whether a fault is detected; a second model; a container (1 of 1 reports"
    )
    for text in (verified, inspected, readme, "\n".join(built.evidence)):
        assert asked in text.replace("Asked", "asked")
        assert lacking in text
        assert "trong evidence: no, missing: " in text
        assert "evidence level" not in text.lower()
    assert "who made it: the pack is not signed" in verified
    # the format's own scale stays where machines read it
    assert json.loads((built.path / "manifest.json").read_bytes())["evidence_level"] == "high"


def test_trust_is_judged_at_the_time_asked_for_and_at_the_time_of_the_pack(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    pack = build_pack(tmp_path / "out", content(run), real_run.key, TIME).path
    signer = fingerprint(real_run.key.public)
    store = tmp_path / "store.json"

    def code(at: str, **entry: Any) -> int:
        store.write_text(json.dumps([{"fingerprint": signer, **entry}]))
        return strict(pack, trust_store=store, at=parse_moment(at)).code

    assert code("2026-02-01", not_before="2026-01-01", not_after="2026-03-01") == 0
    assert code("2026-04-01", not_before="2026-01-01", not_after="2026-03-01") == 5
    # made before its signer was trusted
    assert code("2026-02-15", not_before="2026-02-01", not_after="2026-03-01") == 5
    assert code("2026-02-15", revoked=True) == 5
    early = strict(pack, at=parse_moment("2026-01-01"))
    assert (early.code, early.warnings[-1][:40]) == (0, "the pack says that it was made at 2026-0")


def test_three_required_fields_and_a_signature_are_a_manifest(pack: Path, real_run: Any) -> None:
    whole = json.loads((pack / "manifest.json").read_bytes())
    (pack / "README.md").unlink()
    digests = {path: sha256(data) for path, data in pack_files(pack).items() if path not in CONTROL_FILES}
    (pack / "checksums.sha256").write_bytes(write_checksums(digests))
    sign(pack, {key: whole[key] for key in ("format", "checksums_sha256")}, real_run.key)

    bare = strict(pack)

    assert (bare.code, bare.verdict, bare.evidence_level) == (0, "PASS", "low"), messages(bare)


def without(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield a copy of a document without each of its fields in turn, those of what is in it as well."""
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
    # a level may be lower than what the pack supports
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
    ("claim", "message"),
    [
        (lambda m: m["subject"].pop("path"), ""),
        (lambda m: m["subject"].update(digest=f"sha256:{'0' * 64}"), "subject: digest is not that of"),
        (lambda m: m.update(subject={"digest": f"sha256:{'0' * 64}"}), "subject: digest is that of no file"),
        (lambda m: m.update(subject={"path": "README.md"}), "subject.path: 'README.md', derived"),
        (lambda m: m.update(subject={}), "evidence_level high is claimed, low"),
        (lambda m: m.update(environment={}), "evidence_level high is claimed, medium"),
        (lambda m: m["invocation"].update(config_source={}), "evidence_level high is claimed, medium"),
        (lambda m: m.update(models=[{"model_id": "another/model"}]), "models[0].model_id: 'another/model'"),
        (lambda m: m.update(verification={"clean_reports": 2}), "verification.clean_reports: 2, derived 1"),
        (lambda m: m.update(model_licenses={"another/model": "MIT"}), "model_licenses"),
        (lambda m: m.update(verification_baselines=[{"name": "x"}]), "verification_baselines[0].name: 'x'"),
        (lambda m: m["invocation"].update(config_source={"commit": "1" * 40}), "config_source.commit"),
    ],
)
def test_what_a_partial_block_claims_is_checked(
    pack: Path, real_run: Any, claim: Callable[[Any], object], message: str
) -> None:
    manifest = json.loads((pack / "manifest.json").read_bytes())
    claim(manifest)
    if not message:
        manifest["evidence_level"] = "low"
        (pack / "README.md").unlink()
        (pack / "checksums.sha256").write_text(
            "".join(
                f"{line}\n" for line in (pack / "checksums.sha256").read_text().splitlines() if "README" not in line
            )
        )
    sign(pack, manifest, real_run.key)

    result = strict(pack)

    assert (result.code in (6, 7), result.code == 4) == (bool(message), False), messages(result)
    assert message in messages(result)


def test_a_folder_of_any_files_can_be_sealed_and_checked(tmp_path: Path, real_run: Any) -> None:
    bare(tmp_path, real_run.key, {"notes.txt": b"no report, no verdict"})

    result = strict(tmp_path)

    assert (result.code, result.verdict, result.evidence_level, result.reports_verified) == (0, None, "low", False)
    assert result.document()["assurance_status"] == "not_checked"
    assert "only its bytes and its signature were checked" in "; ".join(result.warnings)
    assert result.warnings[-1] == "sealed, but nothing is derived from: notes.txt"
    assert strict(tmp_path, require_pass=True).code == 7
    assured = strict(tmp_path, report_assurance="strict")
    assert (assured.code, assured.reports_verified) == (7, False)
    assert "the pack has no clean report, strict report assurance needs one" in messages(assured)


def bare(folder: Path, key: SigningKey, files: dict[str, bytes], **claims: Any) -> None:
    """Make a signed pack of any files, whose manifest claims what is given."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "checksums.sha256").write_bytes(write_checksums({path: sha256(data) for path, data in files.items()}))
    sign(folder, {"format": "evidence-pack-v1", "checksums_sha256": "checksums.sha256", **claims}, key)


@pytest.mark.parametrize(
    ("files", "claims", "message"),
    [
        ({"README.md": b"- Verdict: **PASS** (66 of 66)"}, {}, "README.md: not what the manifest and the verdict give"),
        ({"readme.md": b"PASS"}, {}, "readme.md: differs from the name of a file that is checked only"),
        ({"Reports/m/s/run_1/evaluation.html": b"PASS"}, {}, "Reports/m/s/run_1/evaluation.html: differs"),
        ({"RESULTS/final_verdict.txt": b"PASS"}, {}, "RESULTS/final_verdict.txt: differs"),
        ({"\uff52esults/final_verdict.txt": b"PASS"}, {}, "final_verdict.txt: differs"),
        ({"Metadata/pytest_report.json": b"{}"}, {}, "Metadata/pytest_report.json: differs"),
        ({"results/final_verdict.txt": b"PASS"}, {}, "results/final_verdict.json: missing"),
        ({}, {"evidence_level": "high"}, "evidence_level high is claimed, low"),
        ({}, {"evidence_level": "medium"}, "evidence_level medium is claimed, low"),
        ({}, {"verification": {"clean_reports": 20}}, "verification.clean_reports is claimed"),
        ({}, {"verification": {"report_assurance": "strict"}}, "report_assurance strict is claimed"),
        ({}, {"suite": "full"}, "suite is claimed"),
        ({}, {"model_list": ["mistralai/Mistral-7B-v0.1"]}, "model_list is claimed"),
        ({}, {"models": [{"model_id": "x"}]}, "models is claimed"),
        ({"v.json": b"{}"}, {"subject": {"path": "v.json"}}, "subject is claimed"),
        ({}, {"network_mode": "offline"}, "network_mode is claimed"),
        ({}, {"invocation": {"parameters": {"release_review": {"value": True}}}}, "the verdict is None"),
        ({"metadata/environment.json": b"{}"}, {}, "metadata/environment.json: does not hold to"),
    ],
)
def test_a_pack_without_reports_can_claim_nothing(
    tmp_path: Path, real_run: Any, files: dict[str, bytes], claims: dict[str, Any], message: str
) -> None:
    bare(tmp_path, real_run.key, {"notes.txt": b"notes", **files}, **claims)

    for options in (VerifyOptions(), VerifyOptions(strict=True)):
        result = verify_pack(tmp_path, options)
        assert (result.code, result.ok, result.reports_verified) == (7, False, False), messages(result)
        assert message in messages(result)


def test_an_attestation_of_a_pack_without_a_verdict_is_refused(tmp_path: Path, real_run: Any, pack: Path) -> None:
    attest_pack(pack, real_run.key)
    bare(tmp_path / "bare", real_run.key, {"notes.txt": b"notes"})
    shutil.copy(pack / "manifest.attestation.json", tmp_path / "bare")

    result = strict(tmp_path / "bare")

    assert (result.code, result.attested) == (7, False)
    assert "attests a verdict, and none follows from the pack" in messages(result)


def test_a_high_level_is_that_of_a_complete_plan_whose_verdict_is_pass(
    run: Path, real_run: Any, tmp_path: Path, reseal: Reseal
) -> None:
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    files.pop("metadata/pytest_report.json")

    built = build_pack(tmp_path / "less", replace(whole, files=files, claimed_verdict=None), real_run.key, TIME)

    assert (built.verdict, built.evidence_level, strict(built.path).code) == ("FAIL", "medium", 0)
    edit_json(built.path / "manifest.json", lambda manifest: manifest.update(evidence_level="high"))
    reseal(built.path)
    assert strict(built.path).code == 7
    assert "evidence_level high is claimed, medium is what the pack supports" in messages(strict(built.path))


def test_a_progress_bar_is_for_terminals_and_for_packs_that_take_their_time() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def drawn(stream: io.StringIO, seconds: float) -> str:
        with ProgressLine(stream, "verifying pack") as line:
            line._next -= seconds
            line.start(100)(40)
        return stream.getvalue()

    assert drawn(io.StringIO(), 9.0) == ""
    assert drawn(Terminal(), 0.0) == ""
    assert " 40% of 0 MB" in drawn(Terminal(), 9.0)
    assert drawn(Terminal(), 9.0).endswith("\r\x1b[K")
