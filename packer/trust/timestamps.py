"""Time stamps: an authority's statement that a signature existed at a time (RFC 3161).

Example::

    token = request_timestamp("https://tsa.example/tsr", signature_file)      # manifest.signature.tsr
    authority = read_authority(Path("tsa.pem"))
    check_timestamp(token, signature_file, authority).moment                  # when the signature existed at the latest

Source: RFC 3161, sections 2.4 and 3.4. The token is the whole response in DER, as ``openssl ts`` writes it.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from invarlock.packer.format.checksums import SIGNATURE_NAME, TIMESTAMP_NAME
from invarlock.packer.format.limits import MAX_TIMESTAMP_BYTES

from invarlock.errors import SignatureError, UsageError
from invarlock.jsonio import read_file
from invarlock.problems import Code

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

# An authority answers within a second; the TLS handshake and a slow proxy need some more.
TIMEOUT_SECONDS = 30.0
MAX_CERTIFICATE_BYTES = 1024 * 1024
# RFC 3161 lets the client choose the hash; authorities answer with the hash of the request.
HASHES = {
    "2.16.840.1.101.3.4.2.1": hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}


@dataclass(frozen=True)
class TimeAuthority:
    """The pinned certificates of an authority: its roots, and optionally its intermediates and its own certificate."""

    roots: tuple[Certificate, ...]
    intermediates: tuple[Certificate, ...] = ()
    own: Certificate | None = None


@dataclass(frozen=True)
class TimeStamp:
    """A time at which a signature existed, and the name of the authority that confirms it."""

    moment: datetime
    authority: str


def read_authority(path: Path) -> TimeAuthority:
    """Return the authority whose certificates (PEM) are in a file.

    Raises:
        MissingFileError: when there is no such file.
        UsageError: when the file has no self-signed certificate, or more than one certificate of an authority itself,
            or when the optional extra is not installed.
    """
    _, x509 = _libraries()
    try:
        found = x509.load_pem_x509_certificates(read_file(path, limit_bytes=MAX_CERTIFICATE_BYTES))
    except ValueError:
        found = []
    roots = [one for one in found if one.issuer == one.subject]
    others = [one for one in found if one not in roots]
    own = [one for one in others if not _issues(one, x509)]
    if not roots or len(own) > 1:
        raise UsageError(
            "not the certificates of a time-stamping authority; the file needs its root certificate (PEM), and may "
            "have its intermediates and its own",
            code=Code.INPUT_UNREADABLE,
            where=str(path),
        )
    return TimeAuthority(tuple(roots), tuple(one for one in others if one not in own), own[0] if own else None)


def request_timestamp(url: str, data: bytes) -> bytes:
    """Request an authority's token for ``data``; only the SHA-512 of the data is sent.

    Raises:
        UsageError: when the authority does not answer, refuses, or sends something other than a token, or when the
            optional extra is not installed.
    """
    client, _ = _libraries()
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(
            f"--timestamp-url: {url[:200]!r} is not an http or https URL", code=Code.TIMESTAMP_NOT_OBTAINED
        )
    query = client.TimestampRequestBuilder().data(data).build()
    header = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    try:
        with urlopen(Request(url, query.as_bytes(), header), timeout=TIMEOUT_SECONDS) as answer:
            token: bytes = answer.read(MAX_TIMESTAMP_BYTES + 1)
    except (URLError, HTTPException, OSError) as error:
        words = f"--timestamp-url: {url} does not answer ({error}); check the URL, or try again later"
        raise UsageError(words, code=Code.TIMESTAMP_NOT_OBTAINED) from None
    try:
        response = _parse(token)
        if response.tst_info.nonce != query.nonce:
            raise _malformed("the answer is not about this request")
        _check_imprint(response, data)
    except (SignatureError, ValueError) as error:
        words = f"--timestamp-url: {url} gave no time stamp of this signature ({error})"
        raise UsageError(words, code=Code.TIMESTAMP_NOT_OBTAINED) from None
    return token


def check_timestamp(token: bytes, data: bytes, authority: TimeAuthority) -> TimeStamp:
    """Return the time in a token after checking that the token is for ``data`` and by this authority.

    The authority's certificates must be valid at that time; they may have expired since.

    Raises:
        SignatureError: when the token is malformed, for other bytes, or not by this authority.
    """
    client, x509 = _libraries()
    response = _parse(token)
    _check_imprint(response, data)
    verifier = client.VerifierBuilder(
        roots=list(authority.roots), intermediates=list(authority.intermediates), tsa_certificate=authority.own
    ).build()
    try:
        verifier.verify_message(response, data)
        moment = response.tst_info.gen_time.astimezone(UTC)
        name = _signer_name(response, authority, x509)
    except (client.VerificationError, ValueError) as error:
        words = f"not by the pinned authority, or its certificate was not valid then ({str(error)[:200]})"
        raise SignatureError(words, where=TIMESTAMP_NAME, code=Code.TIMESTAMP_OF_OTHER_AUTHORITY) from None
    return TimeStamp(moment, name)


def _parse(token: bytes) -> Any:
    client, _ = _libraries()
    if len(token) > MAX_TIMESTAMP_BYTES:
        raise _malformed(f"more than {MAX_TIMESTAMP_BYTES} bytes")
    try:
        response = client.decode_timestamp_response(token)
        if response.status != client.PKIStatus.GRANTED.value:
            raise _malformed(f"the authority refused it (status {response.status})")
        # this access raises if the response has no token
        response.tst_info.gen_time  # noqa: B018
    except ValueError as error:
        raise _malformed(f"not an RFC 3161 response ({str(error)[:200]})") from None
    return response


def _check_imprint(response: Any, data: bytes) -> None:
    imprint = response.tst_info.message_imprint
    used = HASHES.get(imprint.hash_algorithm.dotted_string)
    if used is None:
        raise _malformed("its hash is none of SHA-256, SHA-384 and SHA-512")
    if used(data).digest() != imprint.message:
        words = f"a time stamp of other bytes than those of {SIGNATURE_NAME}"
        raise SignatureError(words, where=TIMESTAMP_NAME, code=Code.TIMESTAMP_OF_OTHER_SIGNATURE)


def _signer_name(response: Any, authority: TimeAuthority, x509: types.ModuleType) -> str:
    """Return the subject of the certificate that signed a verified response."""
    (signer,) = response.signed_data.signer_infos
    sent = map(x509.load_der_x509_certificate, response.signed_data.certificates)
    certificates: Sequence[Certificate] = [*sent, *([] if authority.own is None else [authority.own])]
    for one in certificates:
        if (one.issuer, one.serial_number) == (signer.issuer, signer.serial_number):
            return one.subject.rfc4514_string()
    raise ValueError("the certificate of its signer is missing")


def _issues(certificate: Certificate, x509: Any) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def _malformed(message: str) -> SignatureError:
    return SignatureError(message, where=TIMESTAMP_NAME, code=Code.TIMESTAMP_MALFORMED)


def _libraries() -> tuple[Any, Any]:
    try:
        # rfc3161_client is an optional extra
        import rfc3161_client
        from cryptography import x509
    except ImportError:
        raise UsageError(
            "time stamps need the package rfc3161-client: pip install 'invarlock[timestamps]'",
            code=Code.EXTRA_NOT_INSTALLED,
        ) from None
    return rfc3161_client, x509
