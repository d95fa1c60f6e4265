"""Changing a trust store under a lock: adding a signer, and revoking one."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from invarlock.packer.trust.keys import fingerprint, load_public_key
from invarlock.packer.trust.signers import (
    MAX_STORE_BYTES,
    TrustedSigner,
    parse_fingerprint,
    parse_trust_store,
    read_trust_store,
    signer_lists,
    write_moment,
)

from invarlock.errors import DocumentError, UsageError
from invarlock.jsonio import dump_json, parse_json, read_json, write_bytes
from invarlock.problems import Code

# an edit takes milliseconds
LOCK_SECONDS = 10.0


def fingerprint_of(text: str) -> str:
    """Return the fingerprint given as ``sha256:HEX`` or as the path of a public key's PEM file.

    Raises:
        UsageError: when the text is neither.
    """
    if text.lower().startswith("sha256:"):
        return parse_fingerprint(text)
    return fingerprint(load_public_key(Path(text)))


def add_signer(store: Path, signer: TrustedSigner) -> None:
    """Add a signer to a store; a missing store is created.

    Raises:
        UsageError: when the file is not a trust store, cannot be written, or already lists the signer, even as
            revoked; or when the signer's period does not end after it begins.
    """

    if signer.not_before is not None and signer.not_after is not None and signer.not_before >= signer.not_after:
        raise UsageError(
            "--not-after: not later than --not-before, so the signer would never be trusted; swap them",
            code=Code.OPTIONS_CONFLICT,
        )

    def add(lists: list[list[Any]]) -> None:
        known = _entries_of(lists, signer.fingerprint)
        if any(isinstance(entry, dict) and entry.get("revoked") for entry in known):
            raise UsageError(
                f"{signer.fingerprint} is revoked there, and a revocation cannot be undone",
                code=Code.SIGNER_ALREADY_LISTED,
                where=str(store),
            )
        if known:
            raise UsageError(
                f"{signer.fingerprint} is already listed; edit the file to change its dates",
                code=Code.SIGNER_ALREADY_LISTED,
                where=str(store),
            )
        lists[0].append(_entry(signer))

    _edit(store, add)


def revoke_signer(store: Path, signer: str, since: datetime | None = None) -> bool:
    """Mark a signer as revoked, and return whether the store already listed it.

    ``since`` is the earliest time at which the signer's key could have been misused; None if unknown.

    Raises:
        UsageError: when the file is not a trust store or cannot be written.
    """
    known = False

    def revoke(lists: list[list[Any]]) -> None:
        nonlocal known
        for entries in lists:
            for number, entry in enumerate(entries):
                text = entry if isinstance(entry, str) else entry["fingerprint"]
                if text.lower() == signer:
                    known = True
                    row = {"fingerprint": text} if isinstance(entry, str) else entry
                    entries[number] = {**row, **_revocation(since)}
        if not known:
            lists[0].append({"fingerprint": signer, **_revocation(since)})

    _edit(store, revoke)
    return known


def _edit(store: Path, change: Callable[[list[list[Any]]], None]) -> None:
    """Change the lists of a store atomically under a lock, keeping the store's form and file mode."""
    # if the store is a link, replace the target and keep the link
    path = Path(os.path.realpath(store))
    if path.exists() and not path.is_file():
        raise UsageError(
            "not a regular file; give another trust store with --trust-store",
            code=Code.TRUST_STORE_UNUSABLE,
            where=str(store),
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
            document: Any = {"trusted_signers": []}
            if path.exists():
                read_trust_store(path)
                document = read_json(path, limit_bytes=MAX_STORE_BYTES)
            change(signer_lists(document, where=str(store)))
            data = _readable(document, store)
            write_bytes(path, data)
    except Timeout:
        raise UsageError(
            f"cannot be locked; wait for the other command, or check that {path.parent} supports file locks",
            code=Code.TRUST_STORE_UNUSABLE,
            where=str(store),
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot be written ({error.strerror})", code=Code.TRUST_STORE_UNUSABLE, where=str(store)
        ) from None


def _readable(document: Any, store: Path) -> bytes:
    """Return the bytes of a store after checking that they can be parsed again.

    Raises:
        UsageError: when they cannot be parsed, so that an edit never makes a store unreadable.
    """
    try:
        data = dump_json(document)
        parse_trust_store(parse_json(data, where=str(store), limit_bytes=MAX_STORE_BYTES), where=str(store))
    except (ValueError, DocumentError) as error:
        raise UsageError(
            f"the changed store would be unreadable ({error}); it was left unchanged",
            code=Code.TRUST_STORE_MALFORMED,
            where=str(store),
        ) from None
    return data


def _entries_of(lists: list[list[Any]], signer: str) -> list[Any]:
    entries = [entry for entries in lists for entry in entries]
    return [entry for entry in entries if (entry if isinstance(entry, str) else entry["fingerprint"]).lower() == signer]


def _entry(signer: TrustedSigner) -> dict[str, object]:
    row: dict[str, object] = {"fingerprint": signer.fingerprint}
    if signer.name is not None:
        row["name"] = signer.name
    for name, moment in (("not_before", signer.not_before), ("not_after", signer.not_after)):
        if moment is not None:
            row[name] = write_moment(moment)
    return row


def _revocation(since: datetime | None) -> dict[str, object]:
    return {"revoked": True, **({} if since is None else {"revoked_since": write_moment(since)})}
