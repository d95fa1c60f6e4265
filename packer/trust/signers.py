"""The signers that a receiver trusts, given by a pinned fingerprint or a trust store.

A store is a JSON list of fingerprints, or an object with ``trusted_signers``, ``fingerprints`` or both. List items are
strings, or objects with ``fingerprint`` and optionally ``name``, ``not_before``, ``not_after``, ``revoked`` and
``revoked_since``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from invarlock.packer.trust.file_access import check_nobody_else_writes

from invarlock.errors import DocumentError, UsageError
from invarlock.jsonio import read_json
from invarlock.problems import Code

Authenticity = Literal["unpinned", "pinned", "mismatch"]

DEFAULT_STORE = Path("~/.config/invarlock/trusted-signers.json")
MAX_STORE_BYTES = 4 * 1024 * 1024
LISTS = ("trusted_signers", "fingerprints")

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Refusal:
    """The reason why a signer is not trusted."""

    code: Code
    reason: str


@dataclass(frozen=True)
class TrustedSigner:
    """A signer, and the period in which its signatures are trusted."""

    fingerprint: str
    name: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked: bool = False
    revoked_since: datetime | None = None

    def refuses(self, moment: datetime, *, proven: bool = False) -> Refusal | None:
        """Return why the signer is not trusted at a moment, or None if it is.

        A signature from before a revocation stays trusted only if its time is ``proven``, because the holder of a
        stolen key can claim any time.
        """
        if self.revoked and not (proven and self.revoked_since is not None and moment < self.revoked_since):
            since = "" if self.revoked_since is None else f" since {write_moment(self.revoked_since)}"
            return Refusal(Code.SIGNER_REVOKED, f"it is revoked{since}")
        if self.not_before is not None and moment < self.not_before:
            return Refusal(Code.SIGNER_OUT_OF_DATE, f"it is trusted from {write_moment(self.not_before)} on")
        if self.not_after is not None and moment > self.not_after:
            return Refusal(Code.SIGNER_OUT_OF_DATE, f"it was trusted until {write_moment(self.not_after)}")
        return None


@dataclass(frozen=True)
class Trust:
    """Whether a signer is pinned, and the reason if it is refused."""

    authenticity: Authenticity
    refusal: Refusal | None = None


def default_store() -> Path | None:
    """Return the default trust store, or None if its path does not exist.

    A dangling link is returned too, because an unreadable store must not mean that everybody is trusted.

    Raises:
        UsageError: when its existence cannot be determined.
    """
    try:
        path = DEFAULT_STORE.expanduser()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        # pathlib raises RuntimeError for a user without a home folder, who has no store
        return None
    except OSError as error:
        # the store may exist and list the signer as revoked, so it must not be ignored
        raise UsageError(
            f"{DEFAULT_STORE}: cannot be read ({error.strerror}); give a store with --trust-store FILE, or set HOME",
            code=Code.TRUST_STORE_UNUSABLE,
        ) from None
    return path


def own_store() -> Path:
    """Return the path of this user's trust store, which may not exist.

    Raises:
        UsageError: when the user has no home folder.
    """
    try:
        return DEFAULT_STORE.expanduser()
    except RuntimeError:
        raise UsageError(
            "this user has no home folder; give a store with --trust-store FILE, or set HOME",
            code=Code.TRUST_STORE_UNUSABLE,
        ) from None


def parse_fingerprint(text: str) -> str:
    """Parse a fingerprint and return it in the form used in packs.

    Raises:
        UsageError: when it is malformed.
    """
    if _FINGERPRINT.fullmatch(text.lower()) is None:
        raise UsageError(
            f"{text[:80]!r} is not a fingerprint; write sha256: and 64 hex digits", code=Code.FINGERPRINT_MALFORMED
        )
    return text.lower()


def parse_moment(text: Any) -> datetime:
    """Parse a time such as ``2026-01-31T12:00:00Z``; the default zone is UTC, and the default time of day midnight.

    Raises:
        UsageError: when it is malformed.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a time such as 2026-01-31T12:00:00Z", code=Code.TIME_MALFORMED) from None


def write_moment(moment: datetime) -> str:
    """Return the text of a time, which `parse_moment` reads back exactly."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


def read_trust_store(path: Path) -> list[TrustedSigner]:
    """Return the signers of a store.

    Raises:
        MissingFileError: when there is no such file.
        UsageError: when it is not a trust store, or is world-writable.
    """
    check_nobody_else_writes(path)
    try:
        document = read_json(path, limit_bytes=MAX_STORE_BYTES)
    except DocumentError as error:
        raise UsageError(str(error), code=Code.TRUST_STORE_MALFORMED) from None
    return parse_trust_store(document, where=str(path))


def parse_trust_store(document: Any, *, where: str) -> list[TrustedSigner]:
    """Return the signers from all lists of a store's document.

    Raises:
        UsageError: when it is not a trust store, or has an unknown field, since that could be a list of revoked
            signers.
    """
    signers = [
        _signer(item, f"{where}: entry {number}")
        for entries in signer_lists(document, where=where)
        for number, item in enumerate(entries, start=1)
    ]
    if isinstance(document, dict):
        for name, value in document.items():
            if name not in LISTS and isinstance(value, list | dict):
                raise UsageError(
                    f"unknown field {name!r}; list signers in 'trusted_signers'",
                    code=Code.TRUST_STORE_MALFORMED,
                    where=where,
                )
    return signers


def signer_lists(document: Any, *, where: str) -> list[list[Any]]:
    """Return the actual lists of a store's document, not copies.

    Raises:
        UsageError: when the document has no such list, or another value in place of one.
    """
    lists = [document[name] for name in LISTS if name in document] if isinstance(document, dict) else [document]
    if not lists or not all(isinstance(entries, list) for entries in lists):
        raise UsageError(
            "expected a list of fingerprints, or an object with 'trusted_signers'",
            code=Code.TRUST_STORE_MALFORMED,
            where=where,
        )
    return lists


def judge_signer(
    signer: str,
    expected: str | None,
    store: Sequence[TrustedSigner] | None,
    moment: datetime,
    *,
    store_is_default: bool = False,
    proven: bool = False,
) -> Trust:
    """Return whether a signer is the expected one and whether the store trusts it at a moment.

    The default store need not list the expected signer: it only refuses a signer that it lists as revoked or
    outside its dates. ``proven`` means that a time stamp proves the moment.
    """
    if expected is not None and signer != expected:
        words = f"signed by {signer}, but {expected} was expected"
        return Trust("mismatch", Refusal(Code.SIGNER_NOT_EXPECTED, words))
    if store is None:
        return Trust("unpinned" if expected is None else "pinned")
    known = [entry for entry in store if entry.fingerprint == signer]
    if not known and not (store_is_default and expected is not None):
        words = f"the signer {signer} is not in the trust store"
        return Trust("mismatch", Refusal(Code.SIGNER_UNKNOWN, words))
    refusals = [refusal for entry in known if (refusal := entry.refuses(moment, proven=proven)) is not None]
    # an entry that refuses the signer takes precedence over one that does not
    if refusals:
        words = f"the signer {signer} is not trusted: {refusals[0].reason}"
        return Trust("mismatch", Refusal(refusals[0].code, words))
    return Trust("pinned")


def _signer(item: Any, where: str) -> TrustedSigner:
    if isinstance(item, str):
        return TrustedSigner(_checked_fingerprint(item, where))
    if not isinstance(item, dict) or not isinstance(item.get("fingerprint"), str):
        raise UsageError("neither a fingerprint nor an object with one", code=Code.TRUST_STORE_MALFORMED, where=where)
    unknown = set(item) - {"fingerprint", "name", "not_before", "not_after", "revoked", "revoked_since"}
    if unknown:
        raise UsageError(f"unknown field {sorted(unknown)[0]!r}", code=Code.TRUST_STORE_MALFORMED, where=where)
    since = _moment(item.get("revoked_since"), where)
    # an entry with the time of a revocation counts as revoked unless it says otherwise
    revoked = item.get("revoked", since is not None)
    if not isinstance(revoked, bool):
        raise UsageError("revoked must be true or false", code=Code.TRUST_STORE_MALFORMED, where=where)
    if since is not None and not revoked:
        raise UsageError("revoked_since needs revoked: true", code=Code.TRUST_STORE_MALFORMED, where=where)
    return TrustedSigner(
        _checked_fingerprint(item["fingerprint"], where),
        None if item.get("name") is None else str(item["name"]),
        _moment(item.get("not_before"), where),
        _moment(item.get("not_after"), where),
        revoked,
        since,
    )


def _checked_fingerprint(text: str, where: str) -> str:
    try:
        return parse_fingerprint(text)
    except UsageError as error:
        raise UsageError(f"{error}", code=Code.TRUST_STORE_MALFORMED, where=where) from None


def _moment(text: Any, where: str) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_moment(text)
    except UsageError as error:
        raise UsageError(f"{error}", code=Code.TRUST_STORE_MALFORMED, where=where) from None
