"""Whom a receiver trusts: a pinned fingerprint or a trust store.

A store is a JSON list of fingerprints, or an object with ``trusted_signers`` or ``fingerprints``; items are strings, or
objects with ``fingerprint`` and optionally ``name``, ``not_before``, ``not_after`` and ``revoked``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from invarlock.errors import DocumentError, UsageError
from invarlock.jsonio import read_json

Authenticity = Literal["unpinned", "pinned", "mismatch"]

DEFAULT_STORE = Path("~/.config/invarlock/trusted-signers.json")
MAX_STORE_BYTES = 4 * 1024 * 1024

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class TrustedSigner:
    """A signer, and when signatures of theirs are trusted."""

    fingerprint: str
    name: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked: bool = False

    def refuses(self, moment: datetime) -> str | None:
        """Return why the signer is not trusted at a moment, None when they are."""
        if self.revoked:
            return "it is revoked"
        if self.not_before is not None and moment < self.not_before:
            return f"it is trusted from {self.not_before:%Y-%m-%dT%H:%M:%SZ} on"
        if self.not_after is not None and moment > self.not_after:
            return f"it was trusted until {self.not_after:%Y-%m-%dT%H:%M:%SZ}"
        return None


@dataclass(frozen=True)
class Trust:
    """What a signer was held against, and what came of it; ``reason`` says why a signer is refused."""

    authenticity: Authenticity
    reason: str | None = None


def default_store() -> Path | None:
    """Return the trust store that is used when none is named, None when there is no such file.

    Raises:
        UsageError: when nobody can tell whether there is one.
    """
    try:
        path = DEFAULT_STORE.expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        # pathlib raises RuntimeError for a user without a home folder, who has no store there
        return None
    except OSError as error:
        # a store that may be there and name the signer as revoked is not passed over
        raise UsageError(
            f"{DEFAULT_STORE}: cannot be read ({error.strerror}); name a store with --trust-store FILE, or set HOME"
        ) from None
    return path


def own_store() -> Path:
    """Return where the trust store of this user is, or would be.

    Raises:
        UsageError: when the user has no home folder.
    """
    try:
        return DEFAULT_STORE.expanduser()
    except RuntimeError:
        raise UsageError("this user has no home folder; name a store with --trust-store FILE, or set HOME") from None


def parse_fingerprint(text: str) -> str:
    """Return a fingerprint as it is written in packs.

    Raises:
        UsageError: when it is none.
    """
    if _FINGERPRINT.fullmatch(text.lower()) is None:
        raise UsageError(f"{text[:80]!r} is no fingerprint; it is sha256: and 64 hex digits")
    return text.lower()


def parse_moment(text: Any) -> datetime:
    """Return a time such as ``2026-01-31T12:00:00Z``; without a zone it is UTC, without an hour midnight.

    Raises:
        UsageError: when it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise UsageError(f"{text!r} is no time such as 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_trust_store(path: Path) -> list[TrustedSigner]:
    """Return the signers of a store.

    Raises:
        MissingFileError: when there is no such file.
        UsageError: when it is no trust store.
    """
    try:
        document = read_json(path, limit_bytes=MAX_STORE_BYTES)
    except DocumentError as error:
        raise UsageError(str(error)) from None
    if isinstance(document, dict):
        document = document.get("trusted_signers", document.get("fingerprints"))
    if not isinstance(document, list):
        raise UsageError(f"{path}: a list of fingerprints is needed, or an object with 'trusted_signers'")
    return [_signer(item, f"{path}: entry {number}") for number, item in enumerate(document, start=1)]


def judge_signer(
    signer: str,
    expected: str | None,
    store: Sequence[TrustedSigner] | None,
    moment: datetime,
    *,
    store_is_default: bool = False,
) -> Trust:
    """Return whether a signer is the one expected, and one of the store at a moment.

    A store that nobody named need not have the signer that is expected: it only refuses one that it has as revoked, or
    as trusted at another time.
    """
    if expected is not None and signer != expected:
        return Trust("mismatch", f"signed by {signer}, expected {expected}")
    if store is None:
        return Trust("unpinned" if expected is None else "pinned")
    known = [entry for entry in store if entry.fingerprint == signer]
    if not known and not (store_is_default and expected is not None):
        return Trust("mismatch", f"the signer {signer} is not in the trust store")
    refusals = [reason for entry in known if (reason := entry.refuses(moment)) is not None]
    # an entry that revokes wins over one that does not
    if refusals:
        return Trust("mismatch", f"the signer {signer} is not trusted: {refusals[0]}")
    return Trust("pinned")


def _signer(item: Any, where: str) -> TrustedSigner:
    if isinstance(item, str):
        return TrustedSigner(_checked_fingerprint(item, where))
    if not isinstance(item, dict) or not isinstance(item.get("fingerprint"), str):
        raise UsageError(f"{where}: neither a fingerprint nor an object with one")
    unknown = set(item) - {"fingerprint", "name", "not_before", "not_after", "revoked"}
    if unknown:
        raise UsageError(f"{where}: unknown field {sorted(unknown)[0]!r}")
    if not isinstance(item.get("revoked", False), bool):
        raise UsageError(f"{where}: revoked must be true or false")
    return TrustedSigner(
        _checked_fingerprint(item["fingerprint"], where),
        None if item.get("name") is None else str(item["name"]),
        _moment(item.get("not_before"), where),
        _moment(item.get("not_after"), where),
        item.get("revoked", False),
    )


def _checked_fingerprint(text: str, where: str) -> str:
    try:
        return parse_fingerprint(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _moment(text: Any, where: str) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_moment(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
