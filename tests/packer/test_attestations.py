"""Attestations in the formats of other tools: their predicates, their subjects, and the tools that read them."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from invarlock.packer.build.attesting import attest_pack, read_file_lists
from invarlock.packer.build.building import build_pack
from invarlock.packer.format.checksums import ATTESTATIONS, BUNDLES
from invarlock.packer.format.limits import MAX_JSON_VALUES
from invarlock.packer.trust.attestation import make_statement, open_attestation, statement_problems
from invarlock.packer.trust.attested import AttestedPack
from invarlock.packer.trust.bundles import make_bundle, read_bundle
from invarlock.packer.trust.checkpoint_subjects import model_signature_digest, stated_files
from invarlock.packer.trust.envelopes import pre_authentication_encoding, sign_statement
from invarlock.packer.trust.keys import fingerprint, make_signing_key, write_key_pair
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from model_signing import hashing
from model_signing._signing.sign_sigstore_pb import Signature as ModelSignature
from model_signing._signing.sign_sigstore_pb import pae
from model_signing._signing.signing import Payload
from nacl.signing import VerifyKey
from packs import TIME, contain, content, messages, pack_files, places, seal, sha256, strict
from processes import ROOT, packer

from invarlock.catalog.pins import combine_digests
from invarlock.errors import SignatureError, UsageError
from invarlock.jsonio import check_schema, dump_json
from invarlock.problems import Code

EMBEDDED = ROOT / "suites/embedded"
PREDICATES = sorted(ATTESTATIONS)
LATER = "2099-01-01T00:00:00Z"
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


def statement_of(pack: Path, predicate: str) -> dict[str, Any]:
    envelope = json.loads((pack / ATTESTATIONS[predicate]).read_bytes())
    statement: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return statement


def put_statement(pack: Path, predicate: str, statement: dict[str, Any], key: Any) -> None:
    (pack / ATTESTATIONS[predicate]).write_bytes(dump_json(sign_statement(statement, key)))
    (pack / BUNDLES[predicate]).unlink(missing_ok=True)


@pytest.fixture
def failing(run: Path, real_run: Any, tmp_path: Path) -> Path:
    """A signed pack with the verdict FAIL, because one of its cases was never run."""
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    files.pop("metadata/pytest_report.json")
    return build_pack(tmp_path / "failing", replace(whole, files=files, claimed_verdict=None), real_run.key, TIME).path


def test_a_run_without_a_verdict_has_no_test_result(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    partial = build_pack(tmp_path / "partial", replace(whole, files=files), real_run.key, TIME).path

    with pytest.raises(UsageError, match="NOT_DERIVED") as caught:
        attest_pack(partial, real_run.key, "test-result")
    attest_pack(partial, real_run.key, "svr")
    statement = statement_of(partial, "svr")
    assert statement["predicate"]["properties"] == ["INVARLOCK_PACK_VERIFIED"]
    predicate = {"result": "PASSED", "configuration": [], "passedTests": [], "warnedTests": [], "failedTests": []}
    kind = "https://in-toto.io/attestation/test-result/v0.1"
    put_statement(partial, "test-result", {**statement, "predicateType": kind, "predicate": predicate}, real_run.key)

    assert caught.value.code is Code.VERDICT_NOT_CLAIMED
    assert places(strict(partial)) == [(Code.ATTESTATION_DIFFERS, "manifest.test-result.json", "predicate")]


@pytest.mark.parametrize("predicate", PREDICATES)
def test_a_pack_has_each_attestation_as_an_envelope_and_as_a_bundle(pack: Path, real_run: Any, predicate: str) -> None:
    before = set(pack_files(pack))

    attest_pack(pack, real_run.key, predicate)

    assert set(pack_files(pack)) - before == {ATTESTATIONS[predicate], BUNDLES[predicate]}
    result = strict(pack)
    assert (result.code, result.attested) == (0, (predicate,)), messages(result)
    assert result.document()["attested_predicates"] == [predicate]
    with pytest.raises(UsageError) as caught:
        attest_pack(pack, real_run.key, predicate)
    assert caught.value.code is Code.ALREADY_SIGNED


def test_the_libraries_of_in_toto_read_every_statement(pack: Path, real_run: Any) -> None:
    for predicate in PREDICATES:
        attest_pack(pack, real_run.key, predicate)

    assert strict(pack).attested == tuple(PREDICATES)
    for predicate in PREDICATES:
        document = statement_of(pack, predicate)
        parsed = json_format.ParseDict(document, statement_pb2.Statement())
        Statement.copy_from_pb(parsed).validate()
    found = json_format.ParseDict(statement_of(pack, "test-result")["predicate"], test_result_pb2.TestResult())
    assert found.result == "PASSED"
    assert len(found.passed_tests) + len(found.warned_tests) == 3
    assert {row.name for row in found.configuration} >= {"metadata/scenarios.json", "metadata/settings.json"}
    assert found.configuration[0].digest["sha256"] == sha256((pack / found.configuration[0].name).read_bytes())


def test_a_simple_verification_lists_only_what_is_true(pack: Path, failing: Path, real_run: Any) -> None:
    attest_pack(pack, real_run.key, "svr")
    attest_pack(failing, real_run.key, "svr")
    attest_pack(failing, real_run.key, "test-result")

    passed, failed = statement_of(pack, "svr")["predicate"], statement_of(failing, "svr")["predicate"]
    assert passed["verifier"]["id"] == "urn:invarlock:verifier:v0.1.0"
    assert passed["properties"] == ["INVARLOCK_PACK_VERIFIED", "INVARLOCK_VERDICT_PASS"]
    assert failed["properties"] == ["INVARLOCK_PACK_VERIFIED"]
    tests = statement_of(failing, "test-result")["predicate"]
    assert tests["result"] == "FAILED"
    assert len(tests["failedTests"]) == 1
    assert "nan_injection" in tests["failedTests"][0]
    assert strict(failing).attested == ("svr", "test-result")


def test_an_informational_case_whose_gates_fail_is_a_warned_test(probed_run: Any, tmp_path: Path) -> None:
    pack = shutil.copytree(probed_run.pack, tmp_path / "probed")

    attest_pack(pack, probed_run.key, "test-result")

    tests = statement_of(pack, "test-result")["predicate"]
    assert ["rmt_norm_noise" in name for name in tests["warnedTests"]] == [True]
    assert ["ve_mlp_scale_skew" in name for name in tests["passedTests"]] == [True]
    assert tests["failedTests"] == []


def record(name: str, strictness: str, *, passed: bool, holds: bool) -> dict[str, Any]:
    return {
        "model": "acme/seven", "name": name, "run_num": 1, "strictness": strictness, "passed": passed,
        "gates_hold": holds,
    }  # fmt: skip


def test_a_case_that_is_not_as_expected_is_a_failed_test_and_the_others_are_not() -> None:
    records = [
        record("noop", "must_pass", passed=True, holds=True),
        record("eight", "must_pass", passed=False, holds=False),
        record("noise", "informational", passed=True, holds=False),
        record("prune", "must_fail", passed=True, holds=False),
    ]
    verdict = {"verdict": "FAIL", "records": records, "missing": {"by_model": {"acme/seven": ["seven-gone-run1"]}}}

    predicate = make_statement("test-result", AttestedPack(b"", {}, verdict, ()), LATER)["predicate"]

    assert predicate["failedTests"] == ["seven-eight-run1", "seven-gone-run1"]
    assert predicate["warnedTests"] == ["seven-noise-run1"]
    assert predicate["passedTests"] == ["seven-noop-run1", "seven-prune-run1"]


@pytest.mark.parametrize("source", [{"commit": "1" * 40}, {"uri": "https://a.b/c", "dirty": False}, {}])
def test_a_statement_has_what_the_manifest_states_of_the_source(source: dict[str, Any]) -> None:
    manifest = {"invocation": {"config_source": {**source, "path": "metadata/source_repo.json"}}}
    pack = AttestedPack(b"", manifest, {"verdict": "PASS", "counts": {}}, ())

    provenance = make_statement("invarlock", pack, LATER)["predicate"]["provenance"]

    assert provenance == ({"source": source} if source else {})


MANY = [0] * (MAX_JSON_VALUES + 1)


def test_statements_and_bundles_have_a_limit_of_values() -> None:
    key, message = make_signing_key(), rf"\d+ values, more than the limit of {MAX_JSON_VALUES}"

    with pytest.raises(SignatureError, match=message) as statement:
        open_attestation("svr", dump_json(sign_statement({"more": MANY}, key)), key.public)
    with pytest.raises(SignatureError, match=message) as bundle:
        read_bundle(dump_json({"more": MANY}), BUNDLES["svr"])

    assert (statement.value.code, bundle.value.code) == (Code.ATTESTATION_MALFORMED,) * 2


def test_a_simple_verification_that_claims_pass_over_a_failed_pack_is_refused(failing: Path, real_run: Any) -> None:
    attest_pack(failing, real_run.key, "svr")
    statement = statement_of(failing, "svr")
    statement["predicate"]["properties"].append("INVARLOCK_VERDICT_PASS")
    put_statement(failing, "svr", statement, real_run.key)

    result = strict(failing)

    assert [code for code, _, _ in places(result)] == [Code.ATTESTATION_DIFFERS]
    assert places(result)[0][1:] == ("manifest.svr.json", "predicate.properties")
    assert result.code == 7


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("predicate", "change", "code"),
    [
        ("svr", lambda s: s["predicate"]["properties"].append("INVARLOCK_STRONG"), Code.ATTESTATION_DIFFERS),
        ("svr", lambda s: s["predicate"].update(timeCreated="2020-01-01T00:00:00Z"), Code.ATTESTATION_DIFFERS),
        ("svr", lambda s: s["predicate"]["verifier"].update(id="urn:other"), Code.ATTESTATION_DIFFERS),
        ("svr", lambda s: s["predicate"].update(timeCreated="soon"), Code.ATTESTATION_MALFORMED),
        ("svr", lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), Code.ATTESTATION_MALFORMED),
        (
            "svr",
            lambda s: s.update(predicateType="https://in-toto.io/attestation/test-result/v0.1"),
            Code.ATTESTATION_MALFORMED,
        ),
        ("test-result", lambda s: s["predicate"]["passedTests"].append("other"), Code.ATTESTATION_DIFFERS),
        ("test-result", lambda s: s["predicate"].update(result="WARNED"), Code.ATTESTATION_DIFFERS),
        ("test-result", lambda s: s["predicate"].update(configuration=[]), Code.ATTESTATION_DIFFERS),
        ("svr", lambda s: s["subject"][1]["digest"].update(sha256="1" * 64), Code.ATTESTED_SUBJECT_DIFFERS),
        ("svr", lambda s: s["subject"][2]["digest"].update(sha256="1" * 64), Code.ATTESTED_SUBJECT_DIFFERS),
        ("svr", lambda s: s["subject"][1].update(annotations="none"), Code.ATTESTED_SUBJECT_DIFFERS),
        ("svr", lambda s: s["subject"][1]["annotations"].update(files={"a": "b"}), Code.ATTESTED_SUBJECT_DIFFERS),
        ("test-result", lambda s: s["subject"].append(s["subject"][1]), Code.ATTESTED_SUBJECT_DIFFERS),
        ("test-result", lambda s: s["subject"].pop(), Code.ATTESTED_SUBJECT_DIFFERS),
    ],
)
def test_a_statement_that_does_not_follow_from_the_pack_is_refused(
    pack: Path, real_run: Any, predicate: str, change: Change, code: Code
) -> None:
    attest_pack(pack, real_run.key, predicate)
    statement = statement_of(pack, predicate)
    change(statement)
    put_statement(pack, predicate, statement, real_run.key)

    result = strict(pack)

    assert {found for found, _, _ in places(result)} == {code}, messages(result)
    assert result.code == code.exit_code


def test_a_bundle_is_read_by_sigstore_and_by_model_signing(pack: Path, real_run: Any, tmp_path: Path) -> None:
    attest_pack(pack, real_run.key, "svr")

    bundle: Any = ModelSignature.read(pack / BUNDLES["svr"]).bundle

    envelope = bundle.dsse_envelope
    assert bundle.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle.verification_material.public_key.hint == strict(pack).signer
    # the signed message in sigstore's encoding
    VerifyKey(real_run.key.public).verify(pae(envelope.payload), envelope.signatures[0].sig)
    assert pae(envelope.payload) == pre_authentication_encoding(envelope.payload_type, envelope.payload)
    assert json.loads(envelope.payload) == statement_of(pack, "svr")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"), Code.ATTESTATION_MALFORMED),
        (lambda b: b["verificationMaterial"]["publicKey"].update(hint="other"), Code.ATTESTATION_MALFORMED),
        (lambda b: b["verificationMaterial"].update(tlogEntries=[{}]), Code.ATTESTATION_MALFORMED),
        (lambda b: b.pop("dsseEnvelope"), Code.ATTESTATION_MALFORMED),
        (lambda b: b["dsseEnvelope"].update(payload="e30="), Code.ATTESTATION_DOES_NOT_HOLD),
    ],
)
def test_a_changed_bundle_is_refused(pack: Path, real_run: Any, change: Change, code: Code) -> None:
    attest_pack(pack, real_run.key, "svr")
    bundle = json.loads((pack / BUNDLES["svr"]).read_bytes())
    change(bundle)
    (pack / BUNDLES["svr"]).write_bytes(dump_json(bundle))

    result = strict(pack)

    assert ({found for found, _, _ in places(result)}, result.code) == ({code}, 5), messages(result)


def test_a_bundle_by_another_key_or_of_another_statement_is_refused(pack: Path, real_run: Any) -> None:
    attest_pack(pack, real_run.key, "svr")
    statement = statement_of(pack, "svr")
    (pack / BUNDLES["svr"]).write_bytes(dump_json(make_bundle(sign_statement(statement, make_signing_key()))))
    assert places(strict(pack)) == [(Code.ATTESTATION_DOES_NOT_HOLD, BUNDLES["svr"], "")]

    statement["predicate"]["properties"].append("INVARLOCK_STRONG")
    (pack / BUNDLES["svr"]).write_bytes(dump_json(make_bundle(sign_statement(statement, real_run.key))))
    assert places(strict(pack)) == [(Code.ATTESTATION_DIFFERS, BUNDLES["svr"], "predicate.properties")]


def test_a_baseline_is_named_by_its_files_and_by_its_model_signature(pack: Path, real_run: Any, tmp_path: Path) -> None:
    attest_pack(pack, real_run.key)
    model = tmp_path / "model"
    model.mkdir()
    for file in [*(EMBEDDED / "mistral-tiny").iterdir(), *(EMBEDDED / "tokenizer").iterdir()]:
        (model / file.name).write_bytes(file.read_bytes())

    rows = {row["name"]: row for row in statement_of(pack, "invarlock")["subject"]}

    name = "embedded/mistral-tiny/baseline"
    signed = json_format.MessageToDict(Payload(hashing.Config().hash(model)).statement.pb)
    assert rows[f"{name}#model-signature"]["digest"] == signed["subject"][0]["digest"]
    assert {row["name"]: row["digest"] for row in signed["predicate"]["resources"]} == {
        file.name: rows[f"{name}/{file.name}"]["digest"]["sha256"] for file in model.iterdir()
    }
    assert rows[name]["annotations"]["files"]["config.json"] == sha256((model / "config.json").read_bytes())


def test_a_model_signature_orders_files_by_the_parts_of_their_paths(tmp_path: Path) -> None:
    names = ("a/x.bin", "a-b/x.bin", "a.json")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)

    signed = json_format.MessageToDict(Payload(hashing.Config().hash(tmp_path)).statement.pb)

    digest = model_signature_digest({name: sha256(name.encode()) for name in names})
    assert signed["subject"][0]["digest"] == {"sha256": digest}


@pytest.mark.parametrize("pins", [[], {"models": [1]}, {"models": [{"files": [{}]}]}])
def test_malformed_pins_are_a_problem_of_the_pack_and_name_no_files(pack: Path, real_run: Any, pins: Any) -> None:
    (pack / "metadata/model_revisions.json").write_bytes(dump_json(pins))
    seal(pack, real_run.key)

    result = strict(pack)

    assert {(code, where) for code, where, _ in places(result)} == {
        (Code.FILE_MALFORMED, "metadata/model_revisions.json")
    }
    assert result.attestable is not None
    assert result.attestable.baseline_files == {}


def test_the_files_of_a_subject_are_named_if_they_are_its_own(pack: Path, real_run: Any, tmp_path: Path) -> None:
    private, _ = write_key_pair(tmp_path / "maker", real_run.key)
    files = {"config.json": "1" * 64, "model.safetensors": "2" * 64}
    listing = tmp_path / "SHA256SUMS"
    listing.write_text("".join(f"{digest}  {name}\n" for name, digest in files.items()))
    assert read_file_lists([listing]) == [files]

    refused = packer("attest", pack, "--signing-key", private, "--checkpoint-files", listing)
    listing.write_text("nothing\n")
    malformed = packer("attest", pack, "--signing-key", private, "--checkpoint-files", listing)
    accepted = packer("attest", pack, "--signing-key", private, "--predicate", "test-result")

    assert (refused.returncode, malformed.returncode, accepted.returncode) == (2, 2, 0)
    assert combine_digests(files) in refused.stderr
    assert "manifest.test-result.json, manifest.test-result.sigstore.json" in accepted.stdout
    result = verify_pack(pack, VerifyOptions())
    assert (result.attested, result.attestable is not None) == (("test-result",), True)
    known = _with_subject(result.attestable, combine_digests(files))
    statement = make_statement("svr", known, LATER, {combine_digests(files): files})
    assert list(statement_problems("svr", statement, known)) == []
    assert stated_files(statement)[combine_digests(files)] == files
    digests = {row["name"]: row["digest"]["sha256"] for row in statement["subject"]}
    assert digests["m/s/run_1#model-signature"] == model_signature_digest(files)


def _with_subject(pack: AttestedPack | None, digest: str) -> AttestedPack:
    assert pack is not None
    report = replace(pack.reports[0], model="m", scenario="s", run=1, subject_digest=digest)
    return replace(pack, reports=(report,))


@given(st.dictionaries(st.text(max_size=8), st.one_of(HEX, st.text(max_size=8)), max_size=4), HEX)
def test_only_files_with_the_digest_of_their_checkpoint_are_believed(files: dict[str, str], other: str) -> None:
    def believed(digest: str) -> dict[str, dict[str, str]]:
        row = {"name": "x", "digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": {"files": files}}
        return stated_files({"subject": [row]})

    plain = all(len(digest) == 64 for digest in files.values()) and all(name.isprintable() for name in files)
    assert believed(combine_digests(files)) == ({combine_digests(files): files} if plain else {})
    assert believed(other) == {}


def test_the_schemas_of_the_predicates_describe_them(pack: Path, real_run: Any) -> None:
    for predicate, schema in (
        ("invarlock", "evidence_pack_verdict"),
        ("svr", "simple_verification_result"),
        ("test-result", "test_result"),
    ):
        attest_pack(pack, real_run.key, predicate)
        data = (pack / ATTESTATIONS[predicate]).read_bytes()
        statement = open_attestation(predicate, data, real_run.key.public)
        check_schema(statement["predicate"], schema, where=predicate)


def test_the_payload_for_another_signer_is_written_without_a_key(
    pack: Path, failing: Path, real_run: Any, tmp_path: Path
) -> None:
    predicate, subjects = tmp_path / "predicate.json", tmp_path / "subjects.sha256"
    private, _ = write_key_pair(tmp_path / "maker", real_run.key)
    outputs = ("--predicate-out", predicate, "--subjects-out", subjects)
    before = pack_files(failing)

    done = packer("attest", failing, "--predicate", "test-result", *outputs)
    alone = packer("attest", failing, "--predicate-out", predicate)
    both = packer("attest", failing, "--signing-key", private, *outputs)

    assert (done.returncode, alone.returncode, both.returncode) == (0, 2, 2)
    assert pack_files(failing) == before
    assert json.loads(predicate.read_bytes())["result"] == "FAILED"
    attest_pack(failing, real_run.key, "test-result")
    rows = statement_of(failing, "test-result")["subject"]
    assert subjects.read_text() == "".join(f"{row['digest']['sha256']}  {row['name']}\n" for row in rows)


def test_a_simple_verification_states_strong_evidence_as_a_receiver_who_pins_the_signer_finds_it(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    whole = content(run)
    pins = {"metadata/model_revisions.json": (run / "state/model_revisions.json").read_bytes()}
    files = {**contain(dict(whole.files)), **pins}
    inside = replace(whole, files=files, claimed_verdict=None, report_assurance="strict")
    pack = build_pack(tmp_path / "contained", inside, real_run.key, TIME).path
    pinned = strict(pack, report_assurance="strict", expected_fingerprint=fingerprint(real_run.key.public))

    attest_pack(pack, real_run.key, "svr")

    properties = statement_of(pack, "svr")["predicate"]["properties"]
    assert (pinned.code, pinned.strong) == (0, True), pinned.missing_for_strong
    assert properties == ["INVARLOCK_PACK_VERIFIED", "INVARLOCK_VERDICT_PASS", "INVARLOCK_STRONG"]
    assert strict(pack).attested == ("svr",)
