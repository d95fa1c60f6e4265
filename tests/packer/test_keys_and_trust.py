import contextlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invarlock.packer.format.checksums import read_checksums, write_checksums
from invarlock.packer.trust.editing import add_signer, revoke_signer
from invarlock.packer.trust.keys import (
    fingerprint,
    load_public_key,
    load_signing_key,
    make_signing_key,
    public_pem,
    read_public_pem,
    write_key_pair,
)
from invarlock.packer.trust.pem import write_pem
from invarlock.packer.trust.signature import sign_manifest, verify_manifest
from invarlock.packer.trust.signers import TrustedSigner, judge_signer, parse_moment, read_trust_store
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from processes import PACKER, packer

from invarlock.errors import IntegrityError, MissingFileError, SignatureError, UsageError
from invarlock.jsonio import dump_json
from invarlock.problems import Code, Problem

VECTOR_BODY = "MCowBQYDK2VwAyEAezFMGltIuByCvbv7E+8jQhT3pM57oYR24XYc7MmDz4E="
VECTOR_FINGERPRINT = "sha256:cc17b2af6579f5de01e74d91e93528b04670ff89f907ec3ba786a69065435605"
ORDER = 2**252 + 27742317777372353535851937790883648493
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SIGNER = f"sha256:{'a' * 64}"


def test_a_key_of_another_implementation_has_the_fingerprint_that_it_published() -> None:
    public = read_public_pem(f"-----BEGIN PUBLIC KEY-----\n{VECTOR_BODY}\n-----END PUBLIC KEY-----\n")

    assert fingerprint(public) == VECTOR_FINGERPRINT
    assert VECTOR_BODY in public_pem(public)


def test_keys_are_written_as_another_implementation_writes_them(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = make_signing_key()
    other = ed25519.Ed25519PrivateKey.from_private_bytes(key.seed)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()

    private, public = write_key_pair(tmp_path / "maker", key)

    assert private.read_bytes() == other.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    assert public.read_bytes() == other.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (write_pem(bytes.fromhex("3043300506032b6571033a00") + bytes(57), "PUBLIC KEY"), "not an Ed25519 public key"),
        (write_pem(bytes.fromhex("302a300506032b6570032100") + bytes(33), "PUBLIC KEY"), "not an Ed25519 public key"),
        (write_pem(bytes.fromhex("302a300506032b656e032100") + bytes(32), "PUBLIC KEY"), "not an Ed25519 public key"),
        (write_pem(bytes(44), "PRIVATE KEY"), "no PEM block with the label PUBLIC KEY"),
    ],
    ids=["Ed448", "a byte too many", "X25519", "private"],
)
def test_a_key_of_another_kind_in_a_signature_is_a_problem_of_the_signature(text: str, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        read_public_pem(text)

    assert caught.value.problems == (
        Problem(Code.SIGNATURE_MALFORMED, "manifest.signature.json", "public_key", message),
    )


def test_a_key_pair_is_written_once_and_the_private_key_for_its_owner_alone(tmp_path: Path) -> None:
    key = make_signing_key()

    private, public = write_key_pair(tmp_path / "maker", key)

    assert (private.name, public.name) == ("maker.pem", "maker.pub.pem")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert load_signing_key(private) == key
    assert read_public_pem(public.read_text()) == key.public
    with pytest.raises(UsageError, match=r"maker\.pem: already exists and is not overwritten"):
        write_key_pair(tmp_path / "maker", make_signing_key())
    assert load_signing_key(private) == key


def test_a_pair_that_cannot_be_whole_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "maker.pub.pem").write_text("mine")

    with pytest.raises(UsageError, match=r"maker\.pub\.pem: already exists"):
        write_key_pair(tmp_path / "maker", make_signing_key())
    assert [path.name for path in tmp_path.iterdir()] == ["maker.pub.pem"]


@pytest.mark.parametrize("text", ["", "not a key", public_pem(b"\0" * 32), "-----BEGIN PRIVATE KEY-----\n\n"])
def test_a_file_that_is_no_private_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key.pem").write_text(text)

    with pytest.raises(UsageError, match=r"key\.pem: "):
        load_signing_key(tmp_path / "key.pem")
    with pytest.raises(MissingFileError, match="make a key with keygen"):
        load_signing_key(tmp_path / "none.pem")


def test_a_private_key_does_not_show_in_its_representation() -> None:
    key = make_signing_key()

    assert key.seed.hex() not in repr(key)
    assert repr(key.seed) not in repr(key)


def changed(document: Mapping[str, Any], **parts: Any) -> bytes:
    return dump_json({**document, **parts})


@pytest.mark.parametrize(
    "public",
    [
        bytes([1]) + bytes(31),  # the identity
        bytes(32),  # a point of order 4
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),  # order 2
        bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),  # the identity, not reduced
    ],
)
def test_a_key_that_proves_nothing_is_refused(public: bytes) -> None:
    signature = sign_manifest(b"manifest", make_signing_key())
    data = changed(
        signature,
        public_key={"encoding": "pem", "value": public_pem(public)},
        signing_key_fingerprint=fingerprint(public),
    )

    with pytest.raises(SignatureError, match="small-order or non-canonical"):
        verify_manifest(b"manifest", data)


def test_a_signature_whose_scalar_is_not_reduced_is_refused() -> None:
    import base64

    key = make_signing_key()
    signature = sign_manifest(b"manifest", key)
    raw = base64.b64decode(signature["signature"]["value"])
    scalar = int.from_bytes(raw[32:], "little") + ORDER
    other = base64.b64encode(raw[:32] + scalar.to_bytes(32, "little")).decode()

    assert verify_manifest(b"manifest", dump_json(signature)) == key.public
    with pytest.raises(SignatureError, match="not valid"):
        verify_manifest(b"manifest", changed(signature, signature={"encoding": "base64", "value": other}))


def store(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "trusted.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    "document",
    [
        [SIGNER],
        [{"fingerprint": SIGNER, "name": "us"}],
        {"trusted_signers": [SIGNER]},
        {"fingerprints": [SIGNER.upper().replace("SHA256", "sha256")]},
    ],
)
def test_every_form_of_a_trust_store_is_read(tmp_path: Path, document: Any) -> None:
    signers = read_trust_store(store(tmp_path, document))

    assert judge_signer(SIGNER, None, signers, NOW).authenticity == "pinned"
    assert judge_signer(f"sha256:{'b' * 64}", None, signers, NOW).authenticity == "mismatch"


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"revoked": True}, Code.SIGNER_REVOKED),
        ({"revoked_since": "2026-07-01T00:00:00Z"}, Code.SIGNER_REVOKED),
        ({"not_before": "2026-07-01T00:00:00Z"}, Code.SIGNER_OUT_OF_DATE),
        ({"not_after": "2026-05-01T00:00:00Z"}, Code.SIGNER_OUT_OF_DATE),
    ],
)
def test_a_signer_is_trusted_in_their_time_and_until_revoked(tmp_path: Path, entry: dict[str, Any], code: Code) -> None:
    signers = read_trust_store(store(tmp_path, [SIGNER, {"fingerprint": SIGNER, **entry}]))

    trust = judge_signer(SIGNER, None, signers, NOW)

    assert trust.authenticity == "mismatch"
    assert trust.refusal is not None
    assert trust.refusal.code is code


@pytest.mark.parametrize(
    "document",
    [
        {},
        "x",
        [1],
        ["sha256:00"],
        [{"fingerprint": SIGNER, "trusted": True}],
        [{"revoked": True}],
        [{"fingerprint": SIGNER, "not_before": "yesterday"}],
        [{"fingerprint": SIGNER, "not_after": 2026}],
        {"trusted_signers": [SIGNER], "fingerprints": {}},
        {"trusted_signers": {}, "fingerprints": [SIGNER]},
    ],
)
def test_a_file_that_is_not_a_trust_store_is_a_usage_error(tmp_path: Path, document: Any) -> None:
    with pytest.raises(UsageError, match=r"trusted\.json") as caught:
        read_trust_store(store(tmp_path, document))
    assert caught.value.code is Code.TRUST_STORE_MALFORMED


NAMES = st.lists(st.text("abcdefgh012._-", min_size=1, max_size=8), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(NAMES, st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1, max_size=8))
def test_checksums_read_back_as_they_were_written(digests: dict[str, str]) -> None:
    try:
        data = write_checksums(digests)
    except IntegrityError:
        # only names with a part '.' or '..' may be refused
        assert any(part in (".", "..") for path in digests for part in path.split("/"))
        return

    assert read_checksums(data) == digests
    lines = data.splitlines(keepends=True)
    assert data == b"".join(sorted(lines, key=lambda line: bytes(line)[66:]))


@given(st.binary(max_size=65))
def test_bytes_too_short_for_a_line_are_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"checksums\.sha256: "):
        read_checksums(data)


@pytest.mark.parametrize("twins", [("a/Straße", "a/STRASSE"), ("caf\u00e9", "cafe\u0301"), ("A", "a")])
def test_names_that_a_filesystem_could_take_for_one_are_refused(twins: tuple[str, str]) -> None:
    with pytest.raises(IntegrityError, match="differ only by case or normalisation"):
        write_checksums(dict.fromkeys(twins, "0" * 64))


def test_a_passphrase_encrypts_the_private_key(tmp_path: Path) -> None:
    key = make_signing_key()
    private, _ = write_key_pair(tmp_path / "mine", key, b"correct horse")

    assert private.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert private.stat().st_mode & 0o777 == 0o600
    assert load_signing_key(private, b"correct horse") == key
    with pytest.raises(UsageError, match="wrong passphrase") as wrong:
        load_signing_key(private, b"battery staple")
    with pytest.raises(UsageError, match="an encrypted key; give the variable with its passphrase") as missing:
        load_signing_key(private)
    plain, _ = write_key_pair(tmp_path / "plain", key)
    with pytest.raises(UsageError, match="the key is not encrypted") as needless:
        load_signing_key(plain, b"correct horse")
    assert [caught.value.code for caught in (wrong, missing, needless)] == [
        Code.PASSPHRASE_WRONG, Code.KEY_ENCRYPTED, Code.KEY_NOT_ENCRYPTED,
    ]  # fmt: skip


def test_an_encrypted_key_without_the_package_that_reads_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_signing_key()
    private, _ = write_key_pair(tmp_path / "mine", key, b"correct horse")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)

    with pytest.raises(UsageError, match=r"pip install 'invarlock\[encrypted-keys\]'") as reading:
        load_signing_key(private, b"correct horse")
    with pytest.raises(UsageError, match=r"pip install 'invarlock\[encrypted-keys\]'") as writing:
        write_key_pair(tmp_path / "other", key, b"correct horse")
    assert reading.value.code is writing.value.code is Code.EXTRA_NOT_INSTALLED
    assert not (tmp_path / "other.pem").exists()


def test_a_key_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "key.pem"
    folder.mkdir(mode=0o700)

    for read in (load_signing_key, load_public_key):
        with pytest.raises(UsageError, match=r"key\.pem: cannot be read \(Is a directory\)") as caught:
            read(folder)
        assert caught.value.code is Code.INPUT_UNREADABLE


def test_a_passphrase_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSPHRASE", "correct horse")

    made = packer("keygen", tmp_path / "mine", "--passphrase-env", "MY_PASSPHRASE")
    unset = packer("keygen", tmp_path / "other", "--passphrase-env", "NOT_SET")

    assert made.returncode == 0, made.stderr
    assert load_signing_key(tmp_path / "mine.pem", b"correct horse")
    assert (unset.returncode, unset.stderr.count("\n")) == (2, 1)
    assert "NOT_SET is unset" in unset.stderr
    assert not (tmp_path / "other.pem").exists()


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (tmp_path / "ec.pem").write_bytes(pem)

    with pytest.raises(UsageError, match=r"ec\.pem: an encrypted key, but not an Ed25519 private key") as caught:
        load_signing_key(tmp_path / "ec.pem", b"x")
    assert caught.value.code is Code.KEY_MALFORMED


OTHER = f"sha256:{'c' * 64}"


@pytest.mark.parametrize(
    "document", [[SIGNER], {"trusted_signers": [SIGNER], "note": "kept"}, {"fingerprints": [SIGNER]}]
)
def test_signers_are_added_and_revoked_in_the_form_that_the_store_has(tmp_path: Path, document: Any) -> None:
    path = store(tmp_path, document)

    add_signer(path, TrustedSigner(OTHER, "them", NOW))
    assert revoke_signer(path, SIGNER)

    kept = json.loads(path.read_bytes())
    assert type(kept) is type(document)
    assert isinstance(kept, list) or kept.get("note") == document.get("note")
    signers = read_trust_store(path)
    assert signers == [TrustedSigner(SIGNER, revoked=True), TrustedSigner(OTHER, "them", NOW)]
    with pytest.raises(UsageError, match="already listed"):
        add_signer(path, TrustedSigner(OTHER))
    with pytest.raises(UsageError, match="is revoked there"):
        add_signer(path, TrustedSigner(SIGNER))


def test_a_store_is_made_when_there_is_none_and_revoking_does_not_need_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "config" / "trusted.json"

    assert not revoke_signer(path, SIGNER)

    assert read_trust_store(path) == [TrustedSigner(SIGNER, revoked=True)]


def test_a_malformed_store_is_left_unchanged(tmp_path: Path) -> None:
    path = store(tmp_path, {"signers": []})
    before = path.read_bytes()

    with pytest.raises(UsageError, match="expected a list of fingerprints"):
        add_signer(path, TrustedSigner(SIGNER))
    assert path.read_bytes() == before


def test_a_linked_store_stays_a_link(tmp_path: Path) -> None:
    real = store(tmp_path, [])
    (tmp_path / "link.json").symlink_to(real)

    add_signer(tmp_path / "link.json", TrustedSigner(SIGNER))

    assert (tmp_path / "link.json").is_symlink()
    assert read_trust_store(real) == [TrustedSigner(SIGNER)]


def test_signers_added_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    signers = [f"sha256:{number:064x}" for number in range(4)]
    running = [subprocess.Popen([*PACKER, "trust", "add", signer, "--trust-store", str(path)]) for signer in signers]

    assert [process.wait(60) for process in running] == [0] * 4
    assert {signer.fingerprint for signer in read_trust_store(path)} == set(signers)


def test_the_trust_commands_print_what_they_did(tmp_path: Path) -> None:
    path, key = tmp_path / "store.json", make_signing_key()
    _, public = write_key_pair(tmp_path / "them", key)

    added = packer("trust", "add", public, "--name", "them", "--not-after", "2020-01-01", "--trust-store", path)
    listed = packer("trust", "list", "--trust-store", path)
    revoked = packer("trust", "revoke", fingerprint(key.public), "--trust-store", path)
    after = packer("trust", "list", "--json", "--trust-store", path)
    wrong = packer("trust", "add", tmp_path / "them.pem", "--trust-store", path)

    assert added.stdout == f"trusted: {fingerprint(key.public)} in {path}\n"
    assert "them  it was trusted until 2020-01-01T00:00:00Z" in listed.stdout
    assert listed.stdout.endswith(f"\n1 signer in {path}\n")
    assert revoked.returncode == 0
    assert json.loads(after.stdout)[0]["refused"] == "it is revoked"
    assert (wrong.returncode, "not the PEM file of an Ed25519 public key" in wrong.stderr) == (2, True)


def test_listing_a_missing_default_store_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    text, rows = packer("trust", "list"), packer("trust", "list", "--json")
    named = packer("trust", "list", "--trust-store", tmp_path / "mine.json")

    assert (text.returncode, "'trust add'" in text.stdout) == (0, True)
    assert (rows.returncode, rows.stdout) == (0, "[]\n")
    assert (named.returncode, "mine.json: no such file" in named.stderr) == (3, True)


@pytest.mark.parametrize("revoking", ["trusted_signers", "fingerprints"])
def test_of_a_store_with_two_lists_both_count(tmp_path: Path, revoking: str) -> None:
    trusting = "fingerprints" if revoking == "trusted_signers" else "trusted_signers"
    path = store(tmp_path, {trusting: [SIGNER], revoking: [{"fingerprint": SIGNER, "revoked": True}]})

    refusal = judge_signer(SIGNER, None, read_trust_store(path), NOW).refusal
    assert refusal is not None
    assert refusal.code is Code.SIGNER_REVOKED
    with pytest.raises(UsageError, match="is revoked there"):
        add_signer(path, TrustedSigner(SIGNER))


def test_revoking_reaches_every_list(tmp_path: Path) -> None:
    path = store(tmp_path, {"trusted_signers": [SIGNER, OTHER], "fingerprints": [SIGNER]})

    assert revoke_signer(path, SIGNER)

    assert [(signer.fingerprint, signer.revoked) for signer in read_trust_store(path)] == [
        (SIGNER, True), (OTHER, False), (SIGNER, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "document",
    [{"trusted_signers": [SIGNER], "revoked": [SIGNER]}, {"trusted_signers": [SIGNER], "fingerprints": "all"}],
)
def test_a_list_that_nothing_reads_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(UsageError, match=r"trusted\.json: "):
        read_trust_store(store(tmp_path, document))


@given(st.datetimes(timezones=st.none() | st.timezones()), st.datetimes())
def test_any_time_given_is_refused_at_once_or_read_back_the_same(start: datetime, end: datetime) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.json"
        try:
            signer = TrustedSigner(SIGNER, None, parse_moment(start.isoformat()), parse_moment(end.isoformat()))
        except UsageError:
            # only in the first and last year, where the time in UTC would be outside the calendar
            assert start.year in (1, 9999)
            return
        assert signer.not_before is not None
        assert signer.not_after is not None
        if signer.not_before >= signer.not_after:
            with pytest.raises(UsageError, match="never be trusted"):
                add_signer(path, signer)
            return
        add_signer(path, signer)

        assert read_trust_store(path) == [signer]


def test_a_time_before_the_year_1000_does_not_break_the_store(tmp_path: Path) -> None:
    path = store(tmp_path, [OTHER])

    assert packer("trust", "add", SIGNER, "--not-before", "0999-01-01", "--trust-store", path).returncode == 0

    assert read_trust_store(path)[1].not_before == datetime(999, 1, 1, tzinfo=UTC)
    assert "0999-01-01T00:00:00Z" in path.read_text()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_name_is_kept_or_refused_and_the_store_stays_readable(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = store(Path(folder), [OTHER])
        with contextlib.suppress(UsageError):
            add_signer(path, TrustedSigner(SIGNER, name))

        assert read_trust_store(path) in ([TrustedSigner(OTHER)], [TrustedSigner(OTHER), TrustedSigner(SIGNER, name)])


def test_an_edit_keeps_the_mode_of_the_store(tmp_path: Path) -> None:
    path = store(tmp_path, [])
    for mode in (0o600, 0o640, 0o644):
        path.chmod(mode)

        revoke_signer(path, SIGNER)

        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_store_that_everybody_may_write_trusts_nobody(tmp_path: Path) -> None:
    path = store(tmp_path, [SIGNER])
    path.chmod(0o666)

    with pytest.raises(UsageError, match=r"every user of this machine may write it \(mode 0666\); run: chmod o-w"):
        read_trust_store(path)
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match=r"mode 0777"):
        read_trust_store(path)
    tmp_path.chmod(0o1777)
    assert read_trust_store(path) == [TrustedSigner(SIGNER)]


def test_a_store_that_its_group_may_write_is_warned_of(pack: Path, real_run: Any, tmp_path: Path) -> None:
    path = store(tmp_path, [fingerprint(real_run.key.public)])
    path.chmod(0o664)

    result = verify_pack(pack, VerifyOptions(trust_store=path))

    assert (result.code, result.authenticity) == (0, "pinned")
    assert f"{path}: its group may change it (mode 0664); run: chmod g-w {path}" in result.warnings


def test_a_default_store_that_is_a_link_to_nothing_does_not_trust_everybody(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".config" / "invarlock"
    folder.mkdir(parents=True)
    (folder / "trusted-signers.json").symlink_to(tmp_path / "gone.json")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert packer("verify", pack).returncode == 3


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, ""), (0o640, "its group may read"), (0o644, "every user of this machine may read")]
)
def test_a_private_key_that_others_may_read_is_warned_of(
    pack: Path, real_run: Any, tmp_path: Path, mode: int, warned: str
) -> None:
    private, _ = write_key_pair(tmp_path / "key", real_run.key)
    private.chmod(mode)

    done = packer("attest", pack, "--signing-key", private)

    assert done.returncode == 0
    assert (done.stderr.count("\n"), warned in done.stderr) == (int(bool(warned)), True)


def test_a_private_key_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    private, _ = write_key_pair(tmp_path / "key", make_signing_key())
    private.chmod(0o602)

    with pytest.raises(UsageError, match=r"every user of this machine may write it \(mode 0602\)"):
        load_signing_key(private)


def test_a_store_that_is_a_pipe_is_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "store.json")

    with pytest.raises(UsageError, match="not a regular file"):
        revoke_signer(tmp_path / "store.json", SIGNER)
    assert stat.S_ISFIFO((tmp_path / "store.json").stat().st_mode)
