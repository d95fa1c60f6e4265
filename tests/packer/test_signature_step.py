"""The check of the signature: its format, its warnings, and the messages about a damaged signature."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.attesting import attest_pack
from invarlock.packer.format.checksums import ATTESTATION_NAME
from invarlock.packer.format.limits import MAX_ATTESTATION_BYTES
from invarlock.packer.trust import signature as signatures
from invarlock.packer.trust.attestation import open_attestation
from invarlock.packer.trust.envelopes import pre_authentication_encoding
from invarlock.packer.trust.keys import SigningKey, fingerprint
from invarlock.packer.trust.signature import check_signature, sign_manifest, verify_manifest
from invarlock.packer.trust.signers import parse_fingerprint, parse_trust_store, read_trust_store
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from nacl.exceptions import UnavailableError
from packs import codes, edit_json, places, seal, sign, strict

from invarlock.errors import SignatureError, UsageError
from invarlock.jsonio import dump_json
from invarlock.moments import format_moment
from invarlock.problems import Code

KEY = SigningKey(bytes(range(32)))
DATA = b'{"a": 1}\n'
NOT_PINNED = "the signer is not pinned"


def test_a_signature_is_valid_for_its_bytes_and_its_key_alone() -> None:
    made = KEY.sign(DATA)

    assert check_signature(KEY.public, DATA, made)
    assert not check_signature(KEY.public, DATA + b" ", made)
    assert not check_signature(SigningKey(bytes(32)).public, DATA, made)
    for wrong in (b"", made[:-1], made + b"\0"):
        assert not check_signature(KEY.public, DATA, wrong)


def test_a_signature_file_has_a_limit_of_its_own() -> None:
    file = dump_json(sign_manifest(DATA, KEY))
    assert verify_manifest(DATA, file) == KEY.public

    with pytest.raises(SignatureError) as caught:
        verify_manifest(DATA, file + b" " * (1 << 20))

    assert {problem.code for problem in caught.value.problems} == {Code.SIGNATURE_MALFORMED}


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.clear(),
        lambda file: file.pop("public_key"),
        lambda file: file.pop("signature"),
        lambda file: file.update(signature="x"),
        lambda file: file["public_key"].update(value=7),
        lambda file: file["signature"].update(encoding="hex"),
        lambda file: file.update(more=1),
    ],
)
def test_a_signature_file_of_another_form_is_malformed(change: Callable[[Any], object]) -> None:
    document = sign_manifest(DATA, KEY)
    change(document)

    with pytest.raises(SignatureError) as caught:
        verify_manifest(DATA, dump_json(document))

    assert {(problem.code, problem.where) for problem in caught.value.problems} == {
        (Code.SIGNATURE_MALFORMED, "manifest.signature.json")
    }


def test_a_libsodium_without_the_check_of_points_still_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(public: bytes) -> bool:
        raise UnavailableError

    monkeypatch.setattr(signatures, "crypto_core_ed25519_is_valid_point", unavailable)

    assert verify_manifest(DATA, dump_json(sign_manifest(DATA, KEY))) == KEY.public


def test_an_unpinned_signer_is_a_warning_and_a_pinned_one_is_not(pack: Path, real_run: Any) -> None:
    pinned = strict(pack, expected_fingerprint=fingerprint(real_run.key.public))

    assert [line for line in strict(pack).warnings if line.startswith(NOT_PINNED)]
    assert not [line for line in pinned.warnings if line.startswith(NOT_PINNED)]


def test_a_pack_that_was_made_later_than_now_is_a_warning(pack: Path) -> None:
    made = datetime.fromisoformat(json.loads((pack / "manifest.json").read_bytes())["generated_at"]).astimezone(UTC)

    def warnings(at: datetime) -> list[str]:
        return [line for line in verify_pack(pack, VerifyOptions(at=at)).warnings if format_moment(made) in line]

    assert len(warnings(made - timedelta(seconds=1))) == 1
    assert warnings(made) == warnings(made + timedelta(seconds=1)) == []


def test_a_manifest_with_more_changes_than_line_endings_has_an_invalid_signature(pack: Path) -> None:
    path = pack / "manifest.json"
    whole = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(whole)
    assert (strict(pack).code, codes(strict(pack)) & {Code.SIGNATURE_DOES_NOT_HOLD}) == (5, set())

    path.write_bytes(whole.replace(b'"high"', b'"low"'))

    assert codes(strict(pack)) == {Code.SIGNATURE_DOES_NOT_HOLD}


def test_the_manifest_names_its_signer_and_no_other(pack: Path, real_run: Any) -> None:
    document = json.loads((pack / "manifest.json").read_bytes())
    sign(pack, {**document, "signing_key_fingerprint": fingerprint(KEY.public)}, real_run.key)
    assert places(strict(pack)) == [(Code.SIGNER_DIFFERS, "manifest.json", "signing_key_fingerprint")]

    sign(pack, {**document, "signing_key_fingerprint": fingerprint(real_run.key.public)}, real_run.key)
    assert strict(pack).code == 0


def envelope(pack: Path, key: SigningKey) -> dict[str, Any]:
    attest_pack(pack, key)
    document: dict[str, Any] = json.loads((pack / ATTESTATION_NAME).read_bytes())
    return document


def test_an_attestation_with_the_signature_of_another_payload_is_refused(pack: Path, real_run: Any) -> None:
    document, public = envelope(pack, real_run.key), real_run.key.public
    statement = open_attestation("invarlock", dump_json(document), public)
    other = real_run.key.sign(pre_authentication_encoding(document["payloadType"], b"{}"))
    document["signatures"][0]["sig"] = base64.b64encode(other).decode("ascii")

    with pytest.raises(SignatureError) as caught:
        open_attestation("invarlock", dump_json(document), public)

    assert caught.value.code == Code.ATTESTATION_DOES_NOT_HOLD
    assert statement["predicate"]["verdict"] == "PASS"


def test_an_attestation_has_a_limit_of_its_own(pack: Path, real_run: Any) -> None:
    data, public = dump_json(envelope(pack, real_run.key)), real_run.key.public
    most = data + b" " * (MAX_ATTESTATION_BYTES - len(data))
    assert open_attestation("invarlock", most, public)["predicate"]["verdict"] == "PASS"

    with pytest.raises(SignatureError, match="more than the limit") as caught:
        open_attestation("invarlock", most + b" ", public)

    assert [problem.code for problem in caught.value.problems] == [Code.ATTESTATION_MALFORMED]


def test_an_attestation_says_which_source_made_the_pack(pack: Path, real_run: Any) -> None:
    statement = open_attestation("invarlock", dump_json(envelope(pack, real_run.key)), real_run.key.public)
    manifest = json.loads((pack / "manifest.json").read_bytes())
    source = manifest["invocation"]["config_source"]

    said = statement["predicate"]["provenance"]

    assert said["source"] == {key: source[key] for key in ("uri", "commit", "dirty") if key in source}
    assert said["source"]["commit"]
    assert said["environment"] == manifest["environment"]["digest"]


def test_of_an_attested_pack_only_a_derived_verdict_is_attested(pack: Path, real_run: Any) -> None:
    attest_pack(pack, real_run.key)

    assert strict(pack).attested
    assert not verify_pack(pack, VerifyOptions(report_assurance="off")).attested


def test_a_malformed_fingerprint_is_shown_in_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        parse_fingerprint("x" * 200)

    assert str(caught.value).startswith(f"'{'x' * 80}' ")


@pytest.mark.parametrize(
    "row",
    [
        {"not_before": "soon"},
        {"not_after": "late"},
        {"fingerprint": "abc"},
        {"revoked": 1},
        {"revoked": False, "revoked_since": "2026-01-01"},
    ],
)
def test_an_entry_of_a_store_that_is_wrong_is_named(row: dict[str, Any]) -> None:
    good = {"fingerprint": fingerprint(KEY.public)}

    with pytest.raises(UsageError, match=r"^store: entry 2: "):
        parse_trust_store([good, {**good, **row}], where="store")


def test_a_store_may_have_4_mib_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    text = json.dumps([fingerprint(KEY.public)])
    path.write_text(text + " " * (4_194_304 - len(text)))
    assert len(read_trust_store(path)) == 1

    path.write_text(text + " " * (4_194_305 - len(text)))

    with pytest.raises(UsageError, match="more than the limit"):
        read_trust_store(path)


def test_files_of_which_nothing_is_derived_are_a_warning(pack: Path, real_run: Any) -> None:
    edit_json(pack / "manifest.json", lambda manifest: manifest.update(materials=[]))
    (pack / "notes.txt").write_text("opaque")
    seal(pack, real_run.key)

    (line,) = [line for line in strict(pack).warnings if "notes.txt" in line]

    assert line.endswith(": notes.txt")


@pytest.mark.parametrize(("number", "shown"), [(3, ": 0.txt, 1.txt, 2.txt"), (5, ": 0.txt, 1.txt, 2.txt and 2 more")])
def test_three_files_of_which_nothing_is_derived_are_named(number: int, shown: str, pack: Path, real_run: Any) -> None:
    edit_json(pack / "manifest.json", lambda manifest: manifest.update(materials=[]))
    for name in range(number):
        (pack / f"{name}.txt").write_text("opaque")
    seal(pack, real_run.key)

    (line,) = [line for line in strict(pack).warnings if "not used by any check" in line]

    assert line.endswith(shown)
