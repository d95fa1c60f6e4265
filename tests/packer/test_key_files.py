"""Users' key files from various tools, and the messages about files without a supported key."""

import base64
import contextlib
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st
from invarlock.packer.trust.editing import fingerprint_of
from invarlock.packer.trust.keys import (
    SigningKey,
    fingerprint,
    load_public_key,
    load_signing_key,
    make_signing_key,
    passphrase_from,
    public_pem,
    read_public_pem,
    write_key_pair,
)
from invarlock.packer.trust.pem import PemBlock, find_blocks, private_seed, public_key, write_pem
from processes import packer

from invarlock.errors import SignatureError, UsageError
from invarlock.problems import Code

KEY = SigningKey(bytes(range(32)))
PEM = write_pem(bytes.fromhex("302e020100300506032b657004220420") + KEY.seed, "PRIVATE KEY")
# The version 2 example of RFC 8410, section 10.3, with attributes and the public key.
RFC_8410 = """-----BEGIN PRIVATE KEY-----
MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB
Z9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PRIVATE KEY-----
"""
V2 = bytes.fromhex("3053020101300506032b657004220420") + KEY.seed
FORMS: dict[str, str] = {
    "as we write it": PEM,
    "CRLF": PEM.replace("\n", "\r\n"),
    "old Mac line ends": PEM.replace("\n", "\r"),
    "a BOM": "\ufeff" + PEM,
    "blank lines around": f"\n\n{PEM}\n\n",
    "blank lines within": PEM.replace("-----\n", "-----\n\n", 1),
    "no newline at the end": PEM.rstrip("\n"),
    "one long line": PEM.replace("\n", "", 2).replace("-----M", "-----\nM"),
    "lines of 20 characters": "\n".join(PEM.split("\n")[1][at : at + 20] for at in range(0, 64, 20)).join(
        ["-----BEGIN PRIVATE KEY-----\n", "\n-----END PRIVATE KEY-----\n"]
    ),
    "spaces at the ends of lines": PEM.replace("\n", "  \n"),
    "indented": "\n".join(f"    {line}" for line in PEM.split("\n")),
    "text before": f"Bag Attributes\n    friendlyName: ürlock\nKey Attributes: <No Attributes>\n{PEM}",
    "text behind": f"{PEM}# rotated every year\n",
    "the public key behind it": PEM + public_pem(KEY.public),
    "the public key before it": public_pem(KEY.public) + PEM,
    "version 2": write_pem(V2 + bytes.fromhex("a123032100") + KEY.public, "PRIVATE KEY"),
    "version 2, implicit": write_pem(
        bytes.fromhex("3051020101300506032b657004220420") + KEY.seed + bytes.fromhex("812100") + KEY.public,
        "PRIVATE KEY",
    ),
}


def written(folder: Path, data: str | bytes) -> Path:
    path = folder / "key.pem"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_private_key_is_read_in_every_form_that_other_tools_write(tmp_path: Path, form: str) -> None:
    assert load_signing_key(written(tmp_path, FORMS[form])) == KEY


def test_the_example_of_the_standard_is_read(tmp_path: Path) -> None:
    loaded = load_signing_key(written(tmp_path, RFC_8410))

    assert loaded.public.hex() == "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"


def test_an_encrypted_key_is_read_with_text_around_it(tmp_path: Path) -> None:
    private, _ = write_key_pair(tmp_path / "mine", KEY, b"correct horse")
    text = f"Bag Attributes\r\n{private.read_text()}\n".replace("\n", "\r\n")

    assert load_signing_key(written(tmp_path, text), b"correct horse") == KEY


def pkcs8(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def traditional(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def openssh() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


OTHER: dict[str, tuple[Callable[[], bytes | str], str]] = {
    "EC": (lambda: pkcs8(ec.generate_private_key(ec.SECP256R1())), r"of type elliptic-curve \(EC\), not Ed25519"),
    "EC of OpenSSL": (lambda: traditional(ec.generate_private_key(ec.SECP521R1())), r"elliptic-curve \(EC\), not"),
    "RSA": (lambda: pkcs8(rsa_key()), "of type RSA, not Ed25519"),
    "RSA of OpenSSL": (lambda: traditional(rsa_key()), "of type RSA, not Ed25519"),
    "DSA": (lambda: pkcs8(dsa.generate_private_key(1024)), "of type DSA, not Ed25519"),
    "X25519": (lambda: pkcs8(x25519.X25519PrivateKey.generate()), "of type X25519, not"),
    "Ed448": (lambda: pkcs8(ed448.Ed448PrivateKey.generate()), "of type Ed448, not"),
    "OpenSSH": (openssh, "OpenSSH's own format"),
    "public": (
        lambda: public_pem(KEY.public),
        "this is the public key; give the file of the private key, or make a key",
    ),
    "certificate": (lambda: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "CERTIFICATE"),
    "two keys": (lambda: PEM + PEM, "2 private keys in one file"),
    "DER": (lambda: base64.b64decode(PEM.split("\n")[1]), "DER, not PEM"),
    "UTF-16": (lambda: PEM.encode("utf-16"), "UTF-16 text"),
    "cut off": (lambda: PEM[:60], "without its END line"),
    "not base64": (lambda: PEM.replace("MC4C", "M!4C"), "not base64"),
    "two fields": (
        lambda: write_pem(bytes.fromhex("300a020100300506032b6570"), "PRIVATE KEY"),
        "a damaged key, or not a PKCS#8 structure",
    ),
    "version 3": (
        lambda: write_pem(bytes.fromhex("302e020102300506032b657004220420") + KEY.seed, "PRIVATE KEY"),
        "a damaged key, or not a PKCS#8 structure",
    ),
    "no version": (
        lambda: write_pem(bytes.fromhex("302e040100300506032b657004220420") + KEY.seed, "PRIVATE KEY"),
        "a damaged key, or not a PKCS#8 structure",
    ),
    "another type around the seed": (
        lambda: write_pem(bytes.fromhex("302e020100300506032b657004220320") + KEY.seed, "PRIVATE KEY"),
        "a damaged key",
    ),
    "another public key": (
        lambda: write_pem(V2 + bytes.fromhex("a123032100") + bytes(32), "PRIVATE KEY"),
        "the public key of a different key",
    ),
    "too large": (lambda: "x" * 20_000, "larger than"),
    "empty": (lambda: "", "no PEM block"),
}


def test_the_public_key_in_place_of_the_private_one_leads_to_it(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path / "maker", KEY)

    with pytest.raises(UsageError, match=f"this is the public key; use {re.escape(str(private))}"):
        load_signing_key(public)


@pytest.mark.parametrize("kind", OTHER)
def test_an_unusable_key_is_refused_with_its_kind(tmp_path: Path, kind: str) -> None:
    make, reason = OTHER[kind]

    with pytest.raises(UsageError, match=f"key\\.pem: .*{reason}.*keygen") as caught:
        load_signing_key(written(tmp_path, make()))
    assert caught.value.code is Code.KEY_MALFORMED


@pytest.mark.parametrize(("structure", "length"), [("302a300506032b6570032100", 31), ("302a300506032b6570032101", 32)])
def test_a_public_key_of_another_length_or_with_unused_bits_is_damaged(structure: str, length: int) -> None:
    der = bytearray(bytes.fromhex(structure) + KEY.public[:length])
    der[1], der[10] = len(der) - 2, length + 1

    with pytest.raises(ValueError, match="a damaged Ed25519 public key"):
        public_key(PemBlock("PUBLIC KEY", base64.b64encode(der).decode()))


@given(st.binary(max_size=200), st.sampled_from(["PRIVATE KEY", "PUBLIC KEY"]))
def test_any_structure_is_a_key_or_refused(der: bytes, label: str) -> None:
    block = PemBlock(label, base64.b64encode(der).decode())
    for read in (private_seed, public_key):
        with contextlib.suppress(ValueError):
            assert len(read(block)) == 32


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_key_with_a_changed_byte_is_refused_or_the_key_that_it_says(at: int, value: int) -> None:
    der = bytearray(V2 + bytes.fromhex("a123032100") + KEY.public)
    at %= len(der)
    der[at] = value
    try:
        seed = private_seed(PemBlock("PRIVATE KEY", base64.b64encode(der).decode()))
    except ValueError:
        return
    # changing only the seed or only the public key is detected, because they must match
    assert seed == KEY.seed


@given(st.binary(max_size=300))
def test_any_bytes_are_blocks_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert find_blocks(data)


def test_a_public_key_file_of_a_user_need_not_be_canonical_but_that_of_a_pack_must(tmp_path: Path) -> None:
    text = "# our signer\r\n" + public_pem(KEY.public).replace("\n", "\r\n")

    assert load_public_key(written(tmp_path, text)) == KEY.public
    assert fingerprint_of(str(tmp_path / "key.pem")) == fingerprint(KEY.public)
    with pytest.raises(SignatureError, match="public_key"):
        read_public_pem(text)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"key\.pem: .*a private key.*give its \.pub\.pem") as private:
        load_public_key(written(tmp_path, PEM))
    with pytest.raises(UsageError, match=r"none\.pem: neither sha256:HEX nor an existing public key file") as missing:
        load_public_key(tmp_path / "none.pem")
    assert (private.value.code, missing.value.code) == (Code.KEY_MALFORMED, Code.INPUT_UNREADABLE)


@pytest.mark.parametrize("name", ["tmp/k", "tmp/k.pem", "deep/er/k.pem"])
def test_keygen_writes_the_names_given_and_makes_their_folder(tmp_path: Path, name: str) -> None:
    private, public = write_key_pair(tmp_path / name, KEY)

    folder = (tmp_path / name).parent
    assert (private, public) == (folder / "k.pem", folder / "k.pub.pem")
    assert sorted(path.name for path in folder.iterdir()) == ["k.pem", "k.pub.pem"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert load_signing_key(private) == KEY


def test_keygen_refuses_the_name_of_a_public_key_and_a_folder_that_everybody_writes_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give the private key's name") as caught:
        write_key_pair(tmp_path / "k.pub.pem", KEY)
    assert caught.value.code is Code.KEY_MALFORMED
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match="every user of this machine may write"):
        write_key_pair(tmp_path / "k", make_signing_key())
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_too_long_for_any_tool_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONG", "x" * 1024)
    monkeypatch.setenv("LONGEST", "x" * 1023)
    monkeypatch.setenv("EMPTY", "")

    done = packer("keygen", tmp_path / "k", "--passphrase-env", "LONG")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert passphrase_from("LONGEST") == b"x" * 1023
    for variable, words in (
        ("LONG", "exceeds 1023 bytes"),
        ("EMPTY", "is unset or empty"),
        ("NONE", "is unset or empty"),
    ):
        with pytest.raises(UsageError, match=f"--passphrase-env: .*{variable} {words}") as caught:
            passphrase_from(variable)
        assert caught.value.code is Code.PASSPHRASE_UNUSABLE
