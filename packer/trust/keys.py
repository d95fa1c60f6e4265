"""Ed25519 keys and their files: PKCS#8 for private keys, SubjectPublicKeyInfo for public keys."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.packer.format.checksums import SIGNATURE_NAME
from invarlock.packer.trust.file_access import check_nobody_else_writes
from invarlock.packer.trust.pem import (
    LABEL_KEYS,
    MAX_PEM_BYTES,
    PRIVATE_PREFIX,
    PUBLIC_BYTES,
    PUBLIC_PREFIX,
    PemBlock,
    find_blocks,
    private_seed,
    public_key,
    read_canonical_pem,
    write_pem,
)
from nacl.signing import SigningKey as NaclSigningKey

from invarlock.digests import digest_bytes
from invarlock.errors import MissingFileError, SignatureError, UsageError
from invarlock.problems import Code

ENCRYPTED = "ENCRYPTED PRIVATE KEY"
PRIVATE_LABELS = frozenset({"PRIVATE KEY", ENCRYPTED, "OPENSSH PRIVATE KEY", *LABEL_KEYS})
MAKE_ONE = "make a key with keygen: invarlock keygen NAME.pem"
# OpenSSL has the same limit; a longer value is probably the content of a file.
MAX_PASSPHRASE_BYTES = 1023


@dataclass(frozen=True)
class SigningKey:
    """A private key, kept as its 32-byte seed."""

    seed: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """Return the public key, 32 bytes."""
        return bytes(NaclSigningKey(self.seed).verify_key)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of ``data``."""
        return bytes(NaclSigningKey(self.seed).sign(data).signature)


def make_signing_key() -> SigningKey:
    """Return a new key, generated from the system's random source."""
    return SigningKey(bytes(NaclSigningKey.generate()))


def fingerprint(public: bytes) -> str:
    """Return ``sha256:<hex>`` over the raw 32-byte public key."""
    return digest_bytes(public)


def passphrase_from(variable: str) -> bytes:
    """Return the passphrase in an environment variable.

    Raises:
        UsageError: when it is unset, empty or too long.
    """
    passphrase = os.environ.get(variable, "")
    if not passphrase:
        raise UsageError(
            f"--passphrase-env: the variable {variable} is unset or empty; set it to the passphrase",
            code=Code.PASSPHRASE_UNUSABLE,
        )
    if len(os.fsencode(passphrase)) > MAX_PASSPHRASE_BYTES:
        raise UsageError(
            f"--passphrase-env: the passphrase in {variable} exceeds {MAX_PASSPHRASE_BYTES} bytes; use a shorter one",
            code=Code.PASSPHRASE_UNUSABLE,
        )
    return os.fsencode(passphrase)


def load_signing_key(path: Path, passphrase: bytes | None = None) -> SigningKey:
    """Return the private key in a PEM file (PKCS#8 v1 or v2; encrypted with PBES2, RFC 5958, if a passphrase is given).

    Raises:
        MissingFileError: when the file does not exist.
        UsageError: when the file has no Ed25519 private key or is world-writable, or the passphrase is wrong.
    """
    data = _read_key_file(path, f"{path}: no such file; {MAKE_ONE}")
    check_nobody_else_writes(path)
    try:
        block = _private_block(find_blocks(data))
        if block.label == "PUBLIC KEY":
            raise UsageError(f"this is the public key; {_private_half(path)}", code=Code.KEY_MALFORMED, where=str(path))
        if block.label == ENCRYPTED:
            if passphrase is None:
                named = "give the variable with its passphrase: --passphrase-env VAR"
                raise UsageError(f"an encrypted key; {named}", code=Code.KEY_ENCRYPTED, where=str(path))
            return _decrypt(path, block, passphrase)
        seed = private_seed(block)
    except ValueError as error:
        raise UsageError(f"{error}; {MAKE_ONE}", code=Code.KEY_MALFORMED, where=str(path)) from None
    if passphrase is not None:
        raise UsageError(
            "the key is not encrypted; drop --passphrase-env", code=Code.KEY_NOT_ENCRYPTED, where=str(path)
        )
    return SigningKey(seed)


def load_public_key(path: Path) -> bytes:
    """Return the raw public key of a user's PEM file.

    Raises:
        UsageError: when it cannot be read or has no Ed25519 public key.
    """
    try:
        data = _read_key_file(path, f"{path}: neither sha256:HEX nor an existing public key file")
    except MissingFileError as error:
        raise UsageError(str(error), code=Code.INPUT_UNREADABLE) from None
    try:
        blocks = find_blocks(data)
        if any(block.label in PRIVATE_LABELS for block in blocks):
            raise ValueError("a private key, which must stay secret; give its .pub.pem")
        if len(blocks) > 1:
            raise ValueError(f"{len(blocks)} PEM blocks; give a file with only the public key")
        return public_key(blocks[0])
    except ValueError as error:
        raise UsageError(
            f"not the PEM file of an Ed25519 public key: {error}", code=Code.KEY_MALFORMED, where=str(path)
        ) from None


def write_key_pair(name: Path, key: SigningKey, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Write a private key (mode 0600, encrypted if a passphrase is given) and its public key.

    The files are ``<name>.pem`` and ``<name>.pub.pem``, whether or not ``name`` ends with ``.pem``. A missing folder
    is created, accessible only to its owner.

    Raises:
        UsageError: when one of the files exists, or the folder is not writable or is world-writable. No new file
            is left behind.
    """
    private, public = _pair_of(name)
    secret = write_pem(PRIVATE_PREFIX + key.seed, "PRIVATE KEY") if passphrase is None else _encrypt(key, passphrase)
    texts = {private: (secret, 0o600), public: (public_pem(key.public), 0o644)}
    made: list[Path] = []
    try:
        if not private.parent.exists():
            private.parent.mkdir(parents=True, mode=0o700)
        check_nobody_else_writes(private)
        for path, (text, mode) in texts.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(path)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        exists = isinstance(error, FileExistsError)
        reason = "already exists and is not overwritten" if exists else str(error.strerror)
        code = Code.OUTPUT_EXISTS if exists else Code.OUTPUT_UNWRITABLE
        raise UsageError(f"{error.filename}: {reason}; give another name", code=code) from None
    return private, public


def _pair_of(name: Path) -> tuple[Path, Path]:
    if name.name.endswith(".pub.pem"):
        raise UsageError(
            f"{name}: the name of a public key; give the private key's name, the public key is written next to it",
            code=Code.KEY_MALFORMED,
        )
    stem = name.with_name(name.name.removesuffix(".pem")) if name.name not in ("", ".pem") else name
    return Path(f"{stem}.pem"), Path(f"{stem}.pub.pem")


def _private_half(path: Path) -> str:
    """Return what to do about a public key in the place of a private one."""
    private = path.with_name(f"{path.name.removesuffix('.pub.pem')}.pem")
    return (
        f"use {private}"
        if private != path and private.is_file()
        else f"give the file of the private key, or {MAKE_ONE}"
    )


def public_pem(public: bytes) -> str:
    """Return the SubjectPublicKeyInfo PEM of a raw public key."""
    return write_pem(PUBLIC_PREFIX + public, "PUBLIC KEY")


def read_public_pem(text: str) -> bytes:
    """Return the raw public key of a SubjectPublicKeyInfo PEM.

    Raises:
        SignatureError: when it is not the canonical PEM of an Ed25519 key.
    """
    try:
        der = read_canonical_pem(text, "PUBLIC KEY")
    except ValueError as error:
        raise SignatureError(
            str(error), where=SIGNATURE_NAME, field="public_key", code=Code.SIGNATURE_MALFORMED
        ) from None
    if len(der) != len(PUBLIC_PREFIX) + PUBLIC_BYTES or not der.startswith(PUBLIC_PREFIX):
        raise SignatureError(
            "not an Ed25519 public key", where=SIGNATURE_NAME, field="public_key", code=Code.SIGNATURE_MALFORMED
        )
    return der[len(PUBLIC_PREFIX) :]


def _read_key_file(path: Path, missing: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_PEM_BYTES + 1)
    except FileNotFoundError:
        raise MissingFileError(missing, code=Code.KEY_MISSING) from None
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", code=Code.INPUT_UNREADABLE, where=str(path)) from None


def _private_block(blocks: list[PemBlock]) -> PemBlock:
    """Return the only private key among the blocks of a file; without one, the first block, for the error message.

    Raises:
        ValueError: when there are several private keys.
    """
    private = [block for block in blocks if block.label in PRIVATE_LABELS]
    if len(private) > 1:
        raise ValueError(f"{len(private)} private keys in one file; give a file with one")
    return private[0] if private else blocks[0]


def _encrypt(key: SigningKey, passphrase: bytes) -> str:
    ed25519, serialization = _cryptography()
    pem: bytes = ed25519.Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
    return pem.decode("ascii")


def _decrypt(path: Path, block: PemBlock, passphrase: bytes) -> SigningKey:
    ed25519, serialization = _cryptography()
    # the block is rebuilt to drop any text that the user's tool put around it
    pem = "\n".join([f"-----BEGIN {ENCRYPTED}-----", *block.body.split(), f"-----END {ENCRYPTED}-----", ""])
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii", "replace"), passphrase)
    except Exception:  # noqa: BLE001 - which errors a wrong passphrase and a broken file give is not documented
        raise UsageError(
            "wrong passphrase, or the file is damaged", code=Code.PASSPHRASE_WRONG, where=str(path)
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(
            f"an encrypted key, but not an Ed25519 private key; {MAKE_ONE}", code=Code.KEY_MALFORMED, where=str(path)
        )
    return SigningKey(key.private_bytes_raw())


def _cryptography() -> tuple[Any, Any]:
    try:
        # cryptography is an optional extra
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise UsageError(
            "encrypted keys need the package cryptography: pip install 'invarlock[encrypted-keys]'",
            code=Code.EXTRA_NOT_INSTALLED,
        ) from None
    return ed25519, serialization
