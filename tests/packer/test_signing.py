"""Signing a pack elsewhere, attesting it, and reading the attestation with other tools."""

import base64
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.attesting import attest_pack
from invarlock.packer.build.building import build_pack
from invarlock.packer.build.signing import sign_pack
from invarlock.packer.trust.envelopes import (
    PAYLOAD_TYPE,
    pre_authentication_encoding,
    sign_statement,
)
from invarlock.packer.trust.keys import SigningKey, fingerprint, make_signing_key
from packs import REPORT, TIME, content, edit_json, messages, pack_files, places, seal, sha256, strict
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from invarlock.errors import InvarLockError, SignatureError, UsageError
from invarlock.jsonio import dump_json
from invarlock.problems import Code

ATTESTATION = "manifest.attestation.json"


@pytest.fixture
def unsigned(run: Path, tmp_path: Path) -> Path:
    return build_pack(tmp_path / "unsigned", content(run), None, TIME).path


def test_signing_adds_one_file_and_changes_none(unsigned: Path, real_run: Any) -> None:
    before = pack_files(unsigned)
    assert places(strict(unsigned)) == [(Code.SIGNATURE_MISSING, "manifest.signature.json", "")]

    signer = sign_pack(unsigned, real_run.key)

    after = pack_files(unsigned)
    assert (strict(unsigned).code, strict(unsigned).signer) == (0, signer)
    assert set(after) - set(before) == {"manifest.signature.json"}
    assert {path: after[path] for path in before} == before
    assert [path.name for path in unsigned.parent.iterdir() if path.name.startswith(".")] == []


def test_a_signature_is_never_replaced(pack: Path, real_run: Any) -> None:
    before = pack_files(pack)

    with pytest.raises(UsageError, match="already signed") as caught:
        sign_pack(pack, real_run.key)
    assert caught.value.code is Code.ALREADY_SIGNED
    assert pack_files(pack) == before


def test_what_does_not_verify_is_not_signed(unsigned: Path, real_run: Any) -> None:
    edit_json(unsigned / REPORT, lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5))
    before = pack_files(unsigned)

    with pytest.raises(InvarLockError) as caught:
        sign_pack(unsigned, real_run.key)
    assert (caught.value.code, caught.value.exit_code) == (Code.CHECKSUM_DIFFERS, 6)
    assert pack_files(unsigned) == before


def test_a_pack_that_names_its_signer_is_signed_by_no_other(pack: Path) -> None:
    (pack / "manifest.signature.json").unlink()

    with pytest.raises(SignatureError) as caught:
        sign_pack(pack, make_signing_key())
    assert caught.value.code is Code.SIGNER_DIFFERS
    assert not (pack / "manifest.signature.json").exists()


class Watcher(threading.Thread):
    """A thread that reads a file again and again, from the moment that it exists."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.over, self.seen = path, threading.Event(), set[bytes]()
        self.looks = 0

    def run(self) -> None:
        while not self.over.is_set():
            self.looks += 1
            for path in (self.path, *self.path.parents[1].glob(f".*/**/{self.path.name}")):
                with suppress(OSError):
                    self.seen.add(path.read_bytes())


@pytest.mark.parametrize("named", [True, False])
def test_an_invalid_pack_never_has_a_signature_even_for_a_moment(
    run: Path, real_run: Any, tmp_path: Path, named: bool
) -> None:
    # every digest matches but a claim is wrong, which only deriving the verdict again detects
    built = build_pack(tmp_path / "bad", content(run), real_run.key if named else None, TIME).path
    edit_json(built / "results/final_verdict.json", lambda verdict: verdict["counts"].update(clean_pass=7))
    seal(built, real_run.key)
    (built / "manifest.signature.json").unlink()
    watcher = Watcher(built / "manifest.signature.json")
    watcher.start()

    try:
        with pytest.raises(InvarLockError) as caught:
            sign_pack(built, real_run.key)
    finally:
        watcher.over.set()
        watcher.join()

    first = caught.value.problems[0]
    assert (first.code, first.field) == (Code.RESULT_DOES_NOT_FOLLOW, "counts.clean_pass")
    assert watcher.looks > 10
    assert watcher.seen == set()
    assert not (built / "manifest.signature.json").exists()


def test_an_attestation_that_would_not_verify_is_never_written(
    pack: Path, real_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = len(dump_json(sign_statement({}, real_run.key)))
    monkeypatch.setattr("invarlock.packer.verify.authenticity.MAX_ATTESTATION_BYTES", needed)
    watcher = Watcher(pack / ATTESTATION)
    watcher.start()

    try:
        with pytest.raises(InvarLockError, match="more than the limit"):
            attest_pack(pack, real_run.key)
    finally:
        watcher.over.set()
        watcher.join()

    assert (watcher.seen, (pack / ATTESTATION).exists()) == (set(), False)


def test_an_attestation_says_what_the_pack_does(pack: Path, real_run: Any) -> None:
    attest_pack(pack, real_run.key)

    result = strict(pack)
    statement = json.loads(base64.b64decode(json.loads((pack / ATTESTATION).read_bytes())["payload"]))
    assert (result.code, result.attested) == (0, ("invarlock",))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"][0] == {
        "name": "manifest.json", "digest": {"sha256": sha256((pack / "manifest.json").read_bytes())}
    }  # fmt: skip
    digests = {json.loads(path.read_bytes())["subject_digest"] for path in pack.glob("reports/**/edit_metadata.json")}
    named = {f"sha256:{row['digest']['sha256']}" for row in statement["subject"]}
    assert digests <= named
    assert statement["subject"][1]["name"] == "embedded/mistral-tiny/baseline"
    assert statement["predicate"]["verdict"] == "PASS"
    assert len(statement["predicate"]["cases"]) == 3
    with pytest.raises(UsageError, match="never replaced"):
        attest_pack(pack, real_run.key)


def test_another_implementation_verifies_the_attestation(pack: Path, real_run: Any) -> None:
    attest_pack(pack, real_run.key)
    document = json.loads((pack / ATTESTATION).read_bytes())
    signer = fingerprint(real_run.key.public)

    def key(signing_key: SigningKey) -> SSlibKey:
        return SSlibKey(signer, "ed25519", "ed25519", {"public": signing_key.public.hex()})

    assert set(Envelope.from_dict(json.loads(json.dumps(document))).verify([key(real_run.key)], 1)) == {signer}
    changed = json.loads(json.dumps(document))
    changed["payload"] = base64.b64encode(base64.b64decode(changed["payload"]).replace(b"PASS", b"FAIL")).decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(changed).verify([key(real_run.key)], 1)
    with pytest.raises(VerificationError):
        Envelope.from_dict(document).verify([key(make_signing_key())], 1)


def test_what_is_signed_is_encoded_as_dsse_says() -> None:
    # the example in protocol.md of DSSE v1
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")

    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert Envelope(b"hello world", "http://example.com/HelloWorld", {}).pae() == encoded


def test_only_the_signer_of_a_pack_attests_it(pack: Path, unsigned: Path, real_run: Any) -> None:
    with pytest.raises(InvarLockError) as other:
        attest_pack(pack, make_signing_key())
    with pytest.raises(InvarLockError) as nobody:
        attest_pack(unsigned, real_run.key)

    assert (other.value.code, nobody.value.code) == (Code.SIGNER_DIFFERS, Code.SIGNATURE_MISSING)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda s: s["predicate"].update(verdict="FAIL"), 7, "predicate.verdict"),
        (lambda s: s["predicate"]["cases"][0].update(passed=False), 7, "predicate.cases[0].passed"),
        (lambda s: s["predicate"]["cases"][0]["gates"].pop("spectral_stable"), 7, "gates.spectral_stable"),
        (lambda s: s["predicate"]["cases"][0]["gates"].update(spectral_stable=None), 5, "gates.spectral_stable"),
        (lambda s: s["predicate"]["cases"].pop(), 7, "predicate.cases"),
        (lambda s: s["predicate"]["provenance"].update(suite="full"), 7, "predicate.provenance.suite"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), 7, "subject[0].digest.sha256"),
        (lambda s: s["subject"].pop(), 7, "subject"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), 5, "predicateType"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), 5, "_type"),
    ],
)
def test_an_attestation_that_says_more_than_the_pack_is_refused(
    pack: Path, real_run: Any, change: Change, code: int, message: str
) -> None:
    attest_pack(pack, real_run.key)
    statement = json.loads(base64.b64decode(json.loads((pack / ATTESTATION).read_bytes())["payload"]))
    change(statement)
    (pack / ATTESTATION).write_bytes(dump_json(sign_statement(statement, real_run.key)))

    result = strict(pack)

    assert (result.code, message in messages(result)) == (code, True), messages(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["signatures"].append(e["signatures"][0]), "signatures"),
        (lambda e: e["signatures"].clear(), "signatures"),
        (lambda e: e["signatures"][0].update(keyid="x"), "keyid"),
        (lambda e: e["signatures"][0].update(sig=base64.b64encode(bytes(64)).decode()), "not valid"),
        (lambda e: e.update(payload=e["payload"].rstrip("=") + "\n"), "base64"),
        (lambda e: e.update(payloadType="application/json"), "payloadType"),
        (lambda e: e.update(payload=base64.b64encode(b"{}").decode()), "not valid"),
    ],
)
def test_a_malformed_envelope_is_refused(pack: Path, real_run: Any, change: Change, message: str) -> None:
    attest_pack(pack, real_run.key)
    edit_json(pack / ATTESTATION, change)

    result = strict(pack)

    assert (result.code, message in messages(result)) == (5, True), messages(result)


def test_an_attestation_by_another_signer_or_of_another_pack_is_refused(
    pack: Path, unsigned: Path, real_run: Any
) -> None:
    attest_pack(pack, real_run.key)
    sign_pack(unsigned, real_run.key)
    (unsigned / ATTESTATION).write_bytes((pack / ATTESTATION).read_bytes())
    assert (Code.ATTESTED_SUBJECT_DIFFERS, ATTESTATION, "subject[0].digest.sha256") in places(strict(unsigned))

    statement = json.loads(base64.b64decode(json.loads((pack / ATTESTATION).read_bytes())["payload"]))
    (pack / ATTESTATION).write_bytes(dump_json(sign_statement(statement, make_signing_key())))
    assert places(strict(pack)) == [(Code.ATTESTATION_DOES_NOT_HOLD, ATTESTATION, "")]
    assert json.loads((pack / ATTESTATION).read_bytes())["payloadType"] == PAYLOAD_TYPE
