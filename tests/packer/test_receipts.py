"""Receipts: the statement that a receiver signs about a verification, and what later readers accept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.receivers.receipts import make_receipt, open_receipt, receipt_problems
from invarlock.packer.trust.envelopes import PAYLOAD_TYPE, pre_authentication_encoding, sign_statement
from invarlock.packer.trust.keys import SigningKey, fingerprint, make_signing_key, write_key_pair
from invarlock.packer.verify.policies import ReceiverPolicy
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import TIME, content, edit_json, sha256
from processes import packer
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from invarlock.errors import SignatureError, UsageError
from invarlock.jsonio import check_schema, dump_json
from invarlock.problems import Code

RECEIVER = make_signing_key()


def statement_of(pack: Path, **options: Any) -> dict[str, Any]:
    statement = make_receipt([verify_pack(pack, VerifyOptions(**options))], TIME)
    check_schema(statement, "receipt_statement", where="receipt")
    return statement


def signed(statement: dict[str, Any], key: SigningKey = RECEIVER) -> bytes:
    return dump_json(sign_statement(statement, key))


def manifest_digest(pack: Path) -> str:
    return sha256((pack / "manifest.json").read_bytes()).removeprefix("sha256:")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_key_pair(tmp_path / "receiver", RECEIVER)


def test_a_receipt_names_pack_version_options_and_result(pack: Path, real_run: Any) -> None:
    signer = fingerprint(real_run.key.public)

    statement = statement_of(pack, strict=True, expected_fingerprint=signer, policy=ReceiverPolicy({"verdict": "PASS"}))

    predicate = statement["predicate"]
    assert statement["subject"] == [{"name": "manifest.json", "digest": {"sha256": manifest_digest(pack)}}]
    assert (predicate["verified_at"], predicate["options"]["strict"]) == (TIME, True)
    assert predicate["options"]["policy"] == {"verdict": "PASS"}
    (row,) = predicate["results"]
    assert (row["ok"], row["exit_code"], row["verdict"], row["strong"]) == (True, 0, "PASS", False)
    assert (row["signer_fingerprint"], row["authenticity"], row["problems"]) == (signer, "pinned", [])
    assert receipt_problems(statement, {str(pack): manifest_digest(pack)}) == []
    assert receipt_problems(open_receipt(signed(statement), RECEIVER.public), {}) == []


def test_other_tools_read_a_receipt(pack: Path) -> None:
    envelope = json.loads(signed(statement_of(pack)))
    envelope["signatures"][0]["keyid"] = "receiver"
    key = SSlibKey("receiver", "ed25519", "ed25519", {"public": RECEIVER.public.hex()})

    read = Envelope.from_dict(envelope)
    read.verify([key], 1)

    assert read.payload_type == PAYLOAD_TYPE
    assert json.loads(read.payload)["predicate"]["results"][0]["ok"] is True


def test_a_receipt_of_another_pack_is_refused(run: Path, real_run: Any, pack: Path, tmp_path: Path) -> None:
    other = build_pack(tmp_path / "other", content(run), real_run.key, "2026-03-01T12:00:00Z").path
    statement = statement_of(pack)

    (problem,) = receipt_problems(statement, {str(other): manifest_digest(other)})

    assert (problem.code, problem.where) == (Code.RECEIPT_OF_OTHER_PACK, str(other))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"expected_fingerprint": f"sha256:{'0' * 64}"}, "signer_not_expected"),
        ({"policy": ReceiverPolicy({"minimum_faults": 9})}, "policy_unmet"),
    ],
)
def test_a_receipt_of_a_refused_pack_says_so(pack: Path, options: dict[str, Any], code: str) -> None:
    statement = statement_of(pack, **options)

    (row,) = statement["predicate"]["results"]
    assert row["ok"] is False
    assert row["exit_code"] == next(one for one in Code if one.value == row["problems"][0]["code"]).exit_code != 0
    assert row["problems"][0]["code"] == code
    (problem,) = receipt_problems(statement, {})
    assert problem.code is Code.RECEIPT_REFUSES
    assert row["problems"][0]["code"] in problem.message


def test_an_unsigned_pack_gets_no_accepting_receipt(run: Path, tmp_path: Path) -> None:
    unsigned = build_pack(tmp_path / "unsigned", content(run), None, TIME).path

    statement = statement_of(unsigned, allow_unsigned=True)

    (row,) = statement["predicate"]["results"]
    assert (row["ok"], row["authenticity"], row["problems"]) == (False, "unsigned", [])
    (problem,) = receipt_problems(statement, {})
    assert (problem.code, "not signed" in problem.message) == (Code.RECEIPT_REFUSES, True)


def test_a_changed_receipt_or_one_by_another_key_is_refused(pack: Path) -> None:
    statement = statement_of(pack)
    envelope = json.loads(signed(statement))
    forged = {**envelope, "payload": sign_statement({**statement, "x": 1}, RECEIVER)["payload"]}
    other_predicate = {**statement, "predicateType": "urn:invarlock:evidence-pack-verdict:v1"}
    stranger = make_signing_key()

    for data, code in (
        (dump_json(forged), Code.RECEIPT_DOES_NOT_HOLD),
        (signed(statement, stranger), Code.RECEIPT_DOES_NOT_HOLD),
        (signed(other_predicate), Code.RECEIPT_MALFORMED),
        (signed({**statement, "more": 1}), Code.RECEIPT_MALFORMED),
        (b"{}", Code.RECEIPT_MALFORMED),
        (b"\xff", Code.RECEIPT_MALFORMED),
    ):
        with pytest.raises(SignatureError) as caught:
            open_receipt(data, RECEIVER.public)
        assert {problem.code for problem in caught.value.problems} == {code}


def test_what_is_signed_is_the_payload_with_its_type(pack: Path) -> None:
    statement = statement_of(pack)
    envelope = json.loads(signed(statement))

    assert pre_authentication_encoding(PAYLOAD_TYPE, b"x") == b"DSSEv1 28 application/vnd.in-toto+json 1 x"
    assert envelope["payloadType"] == PAYLOAD_TYPE


def test_a_pack_that_cannot_be_named_gets_no_receipt(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no manifest"):
        make_receipt([verify_pack(tmp_path, VerifyOptions())], TIME)


def test_the_commands_write_and_check_a_receipt(pack: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    receipt = tmp_path / "receipt.json"

    written = packer("verify", pack, "--receipt", receipt, "--receipt-key", private)
    checked = packer("verify-receipt", receipt, pack, "--public-key", public)
    as_json = packer("verify-receipt", receipt, "--public-key", public, "--json")
    alone = packer("verify", pack, "--receipt", receipt)
    inside = packer("verify", pack, "--receipt", pack / "receipt.json", "--receipt-key", private)
    edit_json(pack / "manifest.json", lambda manifest: manifest.update(suite="full"))
    changed = packer("verify-receipt", receipt, pack, "--public-key", public, "--json")

    assert (written.returncode, checked.returncode, as_json.returncode) == (0, 0, 0), written.stderr + checked.stderr
    assert checked.stdout.startswith(f"RECEIPT VALID: {receipt}\nverified at: 20")
    assert json.loads(as_json.stdout)["statement"]["predicate"]["results"][0]["verdict"] == "PASS"
    assert (alone.returncode, inside.returncode) == (2, 2)
    assert not (pack / "receipt.json").exists()
    assert (changed.returncode, json.loads(changed.stdout)["errors"][0]["code"]) == (7, "receipt_of_other_pack")
