"""Time stamps of signatures: an authority states when a pack was signed, and trust is judged at that time."""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.build.signing import sign_pack, stamp_pack
from invarlock.packer.format.checksums import SIGNATURE_NAME, TIMESTAMP_NAME
from invarlock.packer.trust.editing import revoke_signer
from invarlock.packer.trust.keys import fingerprint, write_key_pair
from invarlock.packer.trust.signers import read_trust_store, write_moment
from invarlock.packer.trust.timestamps import check_timestamp, read_authority, request_timestamp
from invarlock.packer.verify.policies import ReceiverPolicy
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import TIME, codes, content, messages, pack_files, places, strict
from processes import packer
from time_authority import TimeAuthority, make_authority

from invarlock.errors import InvarLockError, SignatureError, UsageError
from invarlock.problems import Code

YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TimeAuthority:
    return make_authority(tmp_path_factory.mktemp("time") / "first", "First authority")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> TimeAuthority:
    return make_authority(tmp_path_factory.mktemp("time") / "other", "Other authority")


@pytest.fixture
def stamped(pack: Path, authority: TimeAuthority) -> Path:
    (pack / TIMESTAMP_NAME).write_bytes(authority.stamp((pack / SIGNATURE_NAME).read_bytes()))
    return pack


def store_of(folder: Path, signer: str, **fields: Any) -> Path:
    path = folder / "store.json"
    dates = {name: write_moment(value) for name, value in fields.items() if isinstance(value, datetime)}
    path.write_text(json.dumps([{"fingerprint": signer, **fields, **dates}]))
    return path


def test_a_signature_is_stamped_as_it_is_made(
    run: Path, real_run: Any, tmp_path: Path, authority: TimeAuthority
) -> None:
    pack = build_pack(tmp_path / "unsigned", content(run), None, TIME).path
    private, _ = write_key_pair(tmp_path / "maker", real_run.key)
    before = datetime.now(UTC).replace(microsecond=0)

    with authority.serving() as url:
        signed = packer("sign", pack, "--signing-key", private, "--timestamp-url", url)
    verified = packer("verify", pack, "--strict", "--timestamp-certificate", authority.root)

    assert (signed.returncode, verified.returncode) == (0, 0), signed.stderr + verified.stderr
    assert "at the latest, as CN=First authority states" in verified.stdout
    # an independent implementation
    assert authority.accepts(pack / TIMESTAMP_NAME, pack / SIGNATURE_NAME)
    result = strict(pack, timestamp_certificate=authority.root)
    assert result.stamp is not None
    assert before <= result.stamp.moment <= datetime.now(UTC) + timedelta(seconds=1)
    assert result.document()["time"]["stated_by"] == "timestamp_authority"


def test_a_signed_pack_is_stamped_without_its_key(pack: Path, authority: TimeAuthority) -> None:
    before = pack_files(pack)

    with authority.serving() as url:
        signer = stamp_pack(pack, url)
        with pytest.raises(UsageError) as again:
            stamp_pack(pack, url)

    assert {path for path in pack_files(pack) if path not in before} == {TIMESTAMP_NAME}
    assert again.value.code is Code.ALREADY_SIGNED
    assert strict(pack, timestamp_certificate=authority.root).signer == signer


def test_without_a_time_stamp_the_time_is_the_makers_claim(pack: Path, authority: TimeAuthority) -> None:
    made = json.loads((pack / "manifest.json").read_bytes())["generated_at"]

    done = packer("verify", pack)
    required = strict(pack, timestamp_certificate=authority.root)

    assert f"time: made at {made}, as the maker states; no authority confirms it" in done.stdout.splitlines()
    assert strict(pack).document()["time"] == {"signed_by": made, "stated_by": "signer", "authority": None}
    assert (places(required), required.code) == ([(Code.TIMESTAMP_MISSING, TIMESTAMP_NAME, "")], 5)


def test_an_unchecked_time_stamp_states_no_time(stamped: Path) -> None:
    result = strict(stamped)

    assert (result.code, result.document()["time"]["stated_by"]) == (0, "signer")
    assert [line for line in result.warnings if "--timestamp-certificate" in line]


def test_a_time_stamp_of_another_signature_is_refused(pack: Path, authority: TimeAuthority) -> None:
    (pack / TIMESTAMP_NAME).write_bytes(authority.stamp(b"another signature"))

    result = strict(pack, timestamp_certificate=authority.root)

    assert places(result) == [(Code.TIMESTAMP_OF_OTHER_SIGNATURE, TIMESTAMP_NAME, "")]
    assert result.code == 5


def test_a_time_stamp_of_another_authority_is_refused(stamped: Path, other: TimeAuthority) -> None:
    result = strict(stamped, timestamp_certificate=other.root)

    assert places(result) == [(Code.TIMESTAMP_OF_OTHER_AUTHORITY, TIMESTAMP_NAME, "")]
    assert result.code == 5
    # the message has only the beginning of the library's text, which may be long
    reason = result.problems[0].message.partition("was not valid then (")[2]
    assert (len(reason), reason[-1]) == (201, ")")


def test_the_own_certificate_of_an_authority_can_be_pinned_with_its_root(
    stamped: Path, authority: TimeAuthority, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(authority.root.read_bytes() + (authority.folder / "tsa.pem").read_bytes())
    assert strict(stamped, timestamp_certificate=both).code == 0

    # another authority under the same root certificate
    second = TimeAuthority(tmp_path / "second")
    second.folder.mkdir()
    for name in ("root.pem", "root.key", "tsa.cnf", "serial"):
        (second.folder / name).write_bytes((authority.folder / name).read_bytes())
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "tsa.cnf")
    second.openssl("req", *key, "-subj", "/CN=Second", "-keyout", "tsa.key", "-out", "tsa.csr")
    issued = ("-extfile", "tsa.cnf", "-extensions", "authority", "-out", "tsa.pem")
    second.openssl("x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", *issued)
    (stamped / TIMESTAMP_NAME).write_bytes(second.stamp((stamped / SIGNATURE_NAME).read_bytes()))

    assert strict(stamped, timestamp_certificate=authority.root).code == 0
    assert codes(strict(stamped, timestamp_certificate=both)) == {Code.TIMESTAMP_OF_OTHER_AUTHORITY}


def test_a_signature_from_before_the_validity_of_its_key_is_refused(
    stamped: Path, real_run: Any, authority: TimeAuthority, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    store = store_of(tmp_path, fingerprint(real_run.key.public), not_before=now + YEAR)

    result = strict(stamped, trust_store=store, timestamp_certificate=authority.root, at=now + 2 * YEAR)

    assert places(result) == [(Code.SIGNER_OUT_OF_DATE, SIGNATURE_NAME, "")]
    assert result.code == 5


def test_a_signature_stays_valid_after_the_validity_of_its_key_if_its_time_is_known(
    stamped: Path, real_run: Any, authority: TimeAuthority, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    store = store_of(tmp_path, fingerprint(real_run.key.public), not_after=now + YEAR)
    later = now + 2 * YEAR

    known = strict(stamped, trust_store=store, timestamp_certificate=authority.root, at=later)

    assert (known.code, known.authenticity) == (0, "pinned"), messages(known)
    assert codes(strict(stamped, trust_store=store, at=later)) == {Code.SIGNER_OUT_OF_DATE}


@pytest.mark.parametrize(("since", "accepted"), [(timedelta(days=1), True), (-timedelta(days=1), False), (None, False)])
def test_a_revocation_spares_signatures_that_are_older_for_certain(
    stamped: Path, real_run: Any, authority: TimeAuthority, tmp_path: Path, since: timedelta | None, accepted: bool
) -> None:
    signer = fingerprint(real_run.key.public)
    store = store_of(tmp_path, signer)
    revoke_signer(store, signer, None if since is None else (datetime.now(UTC) + since))

    known = strict(stamped, trust_store=store, timestamp_certificate=authority.root)

    assert codes(known) == (set() if accepted else {Code.SIGNER_REVOKED})
    # without a pinned authority, the time that the maker claims is not trusted
    assert codes(strict(stamped, trust_store=store)) == {Code.SIGNER_REVOKED}
    assert read_trust_store(store)[0].revoked


def test_the_command_records_since_when_a_signer_is_revoked(real_run: Any, tmp_path: Path) -> None:
    signer = fingerprint(real_run.key.public)
    store = tmp_path / "store.json"

    done = packer("trust", "revoke", signer, "--since", "2026-05-01", "--trust-store", store)

    assert done.returncode == 0
    (entry,) = read_trust_store(store)
    assert (entry.revoked, entry.revoked_since) == (True, datetime(2026, 5, 1, tzinfo=UTC))
    listed = packer("trust", "list", "--trust-store", store).stdout
    assert "  revoked since 2026-05-01T00:00:00Z" in listed


@pytest.mark.parametrize("gone", [True, False])
def test_no_signature_is_written_without_its_time_stamp(
    run: Path, real_run: Any, tmp_path: Path, authority: TimeAuthority, gone: bool
) -> None:
    pack = build_pack(tmp_path / "unsigned", content(run), None, TIME).path
    with authority.serving() as stopped:
        pass
    with authority.serving() as url, pytest.raises(UsageError) as caught:
        sign_pack(pack, real_run.key, stopped if gone else url.replace("/tsr", "/other"))

    assert caught.value.code is Code.TIMESTAMP_NOT_OBTAINED
    assert not (pack / SIGNATURE_NAME).exists()
    assert not (pack / TIMESTAMP_NAME).exists()


def test_an_answer_to_another_request_is_not_taken(authority: TimeAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = authority.stamp(b"signature")
    with authority.serving() as url:
        assert check_timestamp(request_timestamp(url, b"signature"), b"signature", read_authority(authority.root))
        monkeypatch.setattr(TimeAuthority, "answer", lambda self, query: kept)
        with pytest.raises(UsageError, match="not about this request") as caught:
            request_timestamp(url, b"signature")
    assert caught.value.code is Code.TIMESTAMP_NOT_OBTAINED
    with pytest.raises(UsageError) as scheme:
        request_timestamp("file:///etc/passwd", b"signature")
    assert scheme.value.code is Code.TIMESTAMP_NOT_OBTAINED


def test_a_damaged_time_stamp_never_ends_in_anything_but_a_problem(authority: TimeAuthority) -> None:
    data, pinned = b"signature", read_authority(authority.root)
    token = authority.stamp(data)
    moment = check_timestamp(token, data, pinned).moment
    chance = random.Random(1)
    damaged = [token[:length] for length in range(0, len(token), 50)]
    for _ in range(300):
        changed = bytearray(token)
        changed[chance.randrange(len(token))] = chance.randrange(256)
        damaged.append(bytes(changed))

    refused = set()
    for one in [*damaged, token + b"x", bytes(70_000)]:
        try:
            # Unsigned bytes of a response only repeat the names of algorithms in the signed bytes. A change there may
            # be accepted, but must not change the time.
            assert check_timestamp(one, data, pinned).moment == moment
        except SignatureError as error:
            refused.add(error.code)

    assert refused == {
        Code.TIMESTAMP_MALFORMED, Code.TIMESTAMP_OF_OTHER_AUTHORITY, Code.TIMESTAMP_OF_OTHER_SIGNATURE,
    }  # fmt: skip


def test_a_refusal_of_the_authority_is_no_time_stamp(pack: Path, authority: TimeAuthority) -> None:
    # a PKIStatusInfo with the status "rejection" and no token
    (pack / TIMESTAMP_NAME).write_bytes(bytes.fromhex("30053003020102"))

    result = strict(pack, timestamp_certificate=authority.root)

    assert codes(result) == {Code.TIMESTAMP_MALFORMED}


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_root_certificate_pins_no_authority(pack: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "pinned.pem"
    path.write_text(text)

    with pytest.raises(UsageError) as caught:
        strict(pack, timestamp_certificate=path)
    assert caught.value.code is Code.INPUT_UNREADABLE


def test_a_policy_takes_the_age_from_the_time_stamp_where_the_maker_states_a_later_time(
    run: Path, real_run: Any, tmp_path: Path, authority: TimeAuthority
) -> None:
    now = datetime.now(UTC)
    pack = build_pack(tmp_path / "later", content(run), real_run.key, write_moment((now + YEAR).replace(microsecond=0)))
    (pack.path / TIMESTAMP_NAME).write_bytes(authority.stamp((pack.path / SIGNATURE_NAME).read_bytes()))
    options = {"policy": ReceiverPolicy({"maximum_age_days": 30}), "at": now + YEAR + timedelta(days=1)}

    assert codes(strict(pack.path, **options)) == set()
    stamped = strict(pack.path, timestamp_certificate=authority.root, **options)

    assert codes(stamped) == {Code.POLICY_UNMET}
    assert [line for line in stamped.warnings if "after its time stamp" in line]


def test_options_that_do_not_fit_are_refused(pack: Path, authority: TimeAuthority) -> None:
    with pytest.raises(UsageError) as caught:
        verify_pack(pack, VerifyOptions(allow_unsigned=True, timestamp_certificate=authority.root))
    neither = packer("sign", pack)

    assert caught.value.code is Code.OPTIONS_CONFLICT
    assert (neither.returncode, "--timestamp-url" in neither.stderr) == (2, True)


def test_without_the_extra_the_command_says_what_to_install(
    pack: Path, authority: TimeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)

    with pytest.raises(InvarLockError, match=r"invarlock\[timestamps\]") as caught:
        strict(pack, timestamp_certificate=authority.root)
    assert caught.value.code is Code.EXTRA_NOT_INSTALLED
    assert strict(pack).code == 0
