"""PEM blocks and the keys in them (RFC 7468, RFC 8410): one strict form in packs, all usual forms in a user's files.

A key in a pack has one canonical form, so that two packs never differ by the encoding of a key. A user's own key file
may come from any tool: it may have CRLF line endings, blank lines or text around the block, or use PKCS#8 v2, which
includes the public key.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from nacl.signing import SigningKey as NaclSigningKey

SEED_BYTES = 32
PUBLIC_BYTES = 32
# The DER bytes before the raw key (RFC 8410): version 0, algorithm 1.3.101.112, OCTET STRING in OCTET STRING.
PRIVATE_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
PUBLIC_PREFIX = bytes.fromhex("302a300506032b6570032100")
ED25519 = bytes.fromhex("2b6570")
# Object identifiers of other common kinds of keys (RFC 8410, RFC 5480 and RFC 8017).
OTHER_KEYS = {
    bytes.fromhex("2b6571"): "Ed448",
    bytes.fromhex("2b656e"): "X25519",
    bytes.fromhex("2b656f"): "X448",
    bytes.fromhex("2a8648ce3d0201"): "elliptic-curve (EC)",
    bytes.fromhex("2a864886f70d010101"): "RSA",
    bytes.fromhex("2a864886f70d01010a"): "RSA-PSS",
    bytes.fromhex("2a8648ce380401"): "DSA",
}
LABEL_KEYS = {"EC PRIVATE KEY": "elliptic-curve (EC)", "RSA PRIVATE KEY": "RSA", "DSA PRIVATE KEY": "DSA"}
# A PKCS#8 Ed25519 PEM has 119 bytes. An RSA key of 16,384 bits has 12,000; it must fit so that it is reported as RSA.
MAX_PEM_BYTES = 16_384
INTEGER, BIT_STRING, OCTET_STRING, OBJECT_IDENTIFIER, SEQUENCE = 0x02, 0x03, 0x04, 0x06, 0x30
ATTRIBUTES, PUBLIC_KEY = 0xA0, 0x81
PUBLIC_KEY_EXPLICIT = 0xA1

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class PemBlock:
    """A block of a PEM file: its label and the text between the label lines."""

    label: str
    body: str


def write_pem(der: bytes, label: str) -> str:
    """Return the canonical PEM of a DER structure: lines of 64 characters, each ending with a newline."""
    body = base64.b64encode(der).decode("ascii")
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def read_canonical_pem(text: str, label: str) -> bytes:
    """Return the DER structure of a PEM text that has exactly the form that `write_pem` writes.

    Raises:
        ValueError: when the text has another form.
    """
    if len(text) > MAX_PEM_BYTES:
        raise ValueError(f"a PEM of {len(text)} characters")
    lines = text.removesuffix("\n").split("\n")
    if lines[0] != f"-----BEGIN {label}-----" or lines[-1] != f"-----END {label}-----" or len(lines) < 3:
        raise ValueError(f"no PEM block with the label {label}")
    der = decode_base64("".join(lines[1:-1]))
    if write_pem(der, label).removesuffix("\n").split("\n") != lines:
        raise ValueError("a PEM that is not canonical")
    return der


def decode_base64(text: str) -> bytes:
    """Decode standard padded base64 in canonical form, as an encoder writes it.

    Raises:
        ValueError: when the text is not canonical base64.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("base64 that is not canonical")
    return data


def find_blocks(data: bytes) -> list[PemBlock]:
    """Return the PEM blocks of a user's file, ignoring other text.

    Raises:
        ValueError: when the file has no PEM block; the message says what the file is instead.
    """
    if len(data) > MAX_PEM_BYTES:
        raise ValueError(f"larger than {MAX_PEM_BYTES} bytes, so not a key file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("UTF-16 text; save it as UTF-8 or ASCII")
    blocks = [PemBlock(match[1], match[2]) for match in _BLOCK.finditer(data.decode("utf-8", "replace"))]
    if blocks:
        return blocks
    if data.startswith(b"\x30"):
        raise ValueError("DER, not PEM; convert it: openssl pkey -inform DER -in FILE -out KEY.pem")
    if b"-----BEGIN" in data:
        raise ValueError("a PEM block without its END line; get the complete file again")
    raise ValueError("no PEM block found")


def private_seed(block: PemBlock) -> bytes:
    """Return the 32-byte seed of an unencrypted Ed25519 private key (PKCS#8 v1 or v2).

    Raises:
        ValueError: when the block is another kind of key, or damaged; the message says which.
    """
    if block.label in LABEL_KEYS:
        raise ValueError(f"a key of type {LABEL_KEYS[block.label]}, not Ed25519")
    if block.label == "OPENSSH PRIVATE KEY":
        raise ValueError("a key in OpenSSH's own format, not PKCS#8")
    if block.label != "PRIVATE KEY":
        raise ValueError(f"a PEM block of another type, {block.label}")
    return _seed(_decoded(block))


def public_key(block: PemBlock) -> bytes:
    """Return the raw key of an Ed25519 public key (SubjectPublicKeyInfo).

    Raises:
        ValueError: when the block is something else; the message says what.
    """
    if block.label != "PUBLIC KEY":
        raise ValueError(f"a PEM block of another type, {block.label}")
    fields = _fields(_only(_decoded(block), SEQUENCE))
    _check_algorithm(fields)
    if len(fields) != 2 or fields[1][0] != BIT_STRING or len(fields[1][1]) != 1 + PUBLIC_BYTES or fields[1][1][0] != 0:
        raise ValueError("a damaged Ed25519 public key")
    return fields[1][1][1:]


def _decoded(block: PemBlock) -> bytes:
    try:
        return base64.b64decode("".join(block.body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"a damaged key, its block is not base64 ({error})") from None


def _seed(der: bytes) -> bytes:
    """Return the seed in a PKCS#8 structure (RFC 5958): version, algorithm, key, and optional fields of version 2."""
    fields = _fields(_only(der, SEQUENCE))
    if len(fields) < 3 or fields[0][0] != INTEGER or fields[0][1] not in (b"\0", b"\1"):
        raise ValueError("a damaged key, or not a PKCS#8 structure")
    _check_algorithm(fields[1:])
    if fields[2][0] != OCTET_STRING:
        raise ValueError("a damaged Ed25519 private key")
    seed = _only(fields[2][1], OCTET_STRING)
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a damaged Ed25519 private key, of {len(seed)} bytes instead of {SEED_BYTES}")
    for tag, value in fields[3:]:
        if tag == ATTRIBUTES:
            continue
        # an implicit tag, as in RFC 8410; older tools wrapped a BIT STRING
        bits = _only(value, BIT_STRING) if tag == PUBLIC_KEY_EXPLICIT else value
        if tag not in (PUBLIC_KEY, PUBLIC_KEY_EXPLICIT) or bits != b"\0" + bytes(NaclSigningKey(seed).verify_key):
            raise ValueError("a private key stored with the public key of a different key")
    return seed


def _check_algorithm(fields: list[tuple[int, bytes]]) -> None:
    algorithm = _fields(fields[0][1]) if fields and fields[0][0] == SEQUENCE else []
    if not algorithm or algorithm[0][0] != OBJECT_IDENTIFIER:
        raise ValueError("a damaged key")
    identifier = algorithm[0][1]
    if identifier != ED25519:
        name = OTHER_KEYS.get(identifier)
        raise ValueError(f"a key of type {name}, not Ed25519" if name else "a key of an unknown type, not Ed25519")


def _only(data: bytes, tag: int) -> bytes:
    fields = _fields(data)
    if len(fields) != 1 or fields[0][0] != tag:
        raise ValueError("a damaged key")
    return fields[0][1]


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """Return the tag and content of each element in the content of a DER sequence.

    Raises:
        ValueError: when the bytes are not DER.
    """
    found = []
    at = 0
    while at < len(data):
        if len(data) - at < 2:
            raise ValueError("a damaged key, its structure is truncated")
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if size > len(data) - at:
            raise ValueError("a damaged key, its structure is truncated")
        found.append((tag, data[at : at + size]))
        at += size
    return found
