"""SHA-256 digests in the forms used in documents.

Example::

    >>> sha256_hex(b"")      # as sha256sum prints it
    'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    >>> digest_bytes(b"")
    'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    >>> short_digest(b"")
    'e3b0c44298fc1c14'
"""

from __future__ import annotations

import hashlib

# Identifies a window or a tensor within one report: 64 bits are enough to distinguish a few thousand.
SHORT_HEX_DIGITS = 16


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_bytes(data: bytes | memoryview) -> str:
    """Return ``sha256:`` and the 64 hex digits of the SHA-256 of some bytes."""
    return f"sha256:{sha256_hex(data)}"


def short_digest(data: bytes | memoryview) -> str:
    """Return the first 16 hex digits of the SHA-256 of some bytes."""
    return sha256_hex(data)[:SHORT_HEX_DIGITS]
