"""Ed25519 keys as PEM files: PKCS#8 for private ones, SubjectPublicKeyInfo for public ones (RFC 8410, RFC 7468)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey as NaclSigningKey

from invarlock.errors import MissingFileError, SignatureError, UsageError

SEED_BYTES = 32
PUBLIC_BYTES = 32
# DER up to the raw key, RFC 8410: version 0, algorithm 1.3.101.112, OCTET STRING in OCTET STRING.
PRIVATE_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
PUBLIC_PREFIX = bytes.fromhex("302a300506032b6570032100")
ENCRYPTED_BEGIN = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
# A PKCS#8 Ed25519 PEM has 119 bytes; a file of pages is another kind of file.
MAX_PEM_BYTES = 4096


@dataclass(frozen=True)
class SigningKey:
    """A private key, kept as its 32-byte seed."""

    seed: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        return bytes(NaclSigningKey(self.seed).verify_key)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of ``data``."""
        return bytes(NaclSigningKey(self.seed).sign(data).signature)


def make_signing_key() -> SigningKey:
    """Return a new key from the system's randomness."""
    return SigningKey(bytes(NaclSigningKey.generate()))


def fingerprint(public: bytes) -> str:
    """Return ``sha256:<hex>`` over the raw 32-byte public key."""
    return f"sha256:{hashlib.sha256(public).hexdigest()}"


def passphrase_from(variable: str) -> bytes:
    """Return the passphrase in an environment variable.

    Raises:
        UsageError: when it is not set, or empty.
    """
    passphrase = os.environ.get(variable, "")
    if not passphrase:
        raise UsageError(f"--passphrase-env: the variable {variable} is not set, or empty; put the passphrase there")
    return os.fsencode(passphrase)


def load_signing_key(path: Path, passphrase: bytes | None = None) -> SigningKey:
    """Return the private key of a PKCS#8 PEM file, encrypted (RFC 5958, PBES2) when a passphrase is given.

    Raises:
        MissingFileError: when there is no such file.
        UsageError: when it holds no Ed25519 private key, or the passphrase does not fit.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_PEM_BYTES + 1)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; make a key with keygen") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    encrypted = data.startswith(ENCRYPTED_BEGIN)
    if encrypted and passphrase is None:
        raise UsageError(f"{path}: an encrypted key; name the variable with its passphrase, --passphrase-env VAR")
    if passphrase is not None:
        if not encrypted:
            raise UsageError(f"{path}: the key is not encrypted; leave --passphrase-env out")
        return _decrypt(path, data, passphrase)
    try:
        der = _read_pem(data.decode("ascii"), "PRIVATE KEY")
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no PKCS#8 PEM private key ({error})") from None
    if len(der) != len(PRIVATE_PREFIX) + SEED_BYTES or not der.startswith(PRIVATE_PREFIX):
        raise UsageError(f"{path}: not an Ed25519 private key; make one with keygen")
    return SigningKey(der[len(PRIVATE_PREFIX) :])


def write_key_pair(name: Path, key: SigningKey, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Write ``<name>.pem`` (mode 0600, encrypted with a passphrase when one is given) and ``<name>.pub.pem``.

    Raises:
        UsageError: when one of them exists, or the folder cannot be written to; nothing is left then.
    """
    private, public = Path(f"{name}.pem"), Path(f"{name}.pub.pem")
    secret = _write_pem(PRIVATE_PREFIX + key.seed, "PRIVATE KEY") if passphrase is None else _encrypt(key, passphrase)
    texts = {private: (secret, 0o600), public: (public_pem(key.public), 0o644)}
    made: list[Path] = []
    try:
        for path, (text, mode) in texts.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(path)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        reason = "exists, it is not overwritten" if isinstance(error, FileExistsError) else str(error.strerror)
        raise UsageError(f"{error.filename}: {reason}; give another name") from None
    return private, public


def public_pem(public: bytes) -> str:
    """Return the SubjectPublicKeyInfo PEM of a raw public key."""
    return _write_pem(PUBLIC_PREFIX + public, "PUBLIC KEY")


def read_public_pem(text: str) -> bytes:
    """Return the raw public key of a SubjectPublicKeyInfo PEM.

    Raises:
        SignatureError: when it is no canonical PEM of an Ed25519 key.
    """
    try:
        der = _read_pem(text, "PUBLIC KEY")
    except ValueError as error:
        raise SignatureError(f"public_key: {error}") from None
    if len(der) != len(PUBLIC_PREFIX) + PUBLIC_BYTES or not der.startswith(PUBLIC_PREFIX):
        raise SignatureError("public_key: not an Ed25519 public key")
    return der[len(PUBLIC_PREFIX) :]


def decode_base64(text: str) -> bytes:
    """Return the bytes of standard padded base64, exactly as an encoder writes them.

    Raises:
        ValueError: when it is not canonical.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("base64 that is not canonical")
    return data


def _encrypt(key: SigningKey, passphrase: bytes) -> str:
    ed25519, serialization = _cryptography()
    pem: bytes = ed25519.Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase),
    )
    return pem.decode("ascii")


def _decrypt(path: Path, data: bytes, passphrase: bytes) -> SigningKey:
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except Exception:  # noqa: BLE001 - which errors a wrong passphrase and a broken file give is not documented
        raise UsageError(f"{path}: the passphrase does not fit, or the file is damaged") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{path}: not an Ed25519 private key; make one with keygen")
    return SigningKey(key.private_bytes_raw())


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise UsageError(
            "encrypted keys need the package cryptography: pip install 'invarlock[encrypted-keys]'"
        ) from None
    return ed25519, serialization


def _write_pem(der: bytes, label: str) -> str:
    body = base64.b64encode(der).decode("ascii")
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _read_pem(text: str, label: str) -> bytes:
    if len(text) > MAX_PEM_BYTES:
        raise ValueError(f"a PEM of {len(text)} characters")
    lines = text.removesuffix("\n").split("\n")
    if lines[0] != f"-----BEGIN {label}-----" or lines[-1] != f"-----END {label}-----" or len(lines) < 3:
        raise ValueError(f"no PEM block with the label {label}")
    der = decode_base64("".join(lines[1:-1]))
    if _write_pem(der, label).removesuffix("\n").split("\n") != lines:
        raise ValueError("a PEM that is not canonical")
    return der
