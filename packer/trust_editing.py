"""Changes to a trust store, one at a time: add a signer, revoke one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

from filelock import FileLock
from invarlock.packer.keys import MAX_PEM_BYTES, fingerprint, read_public_pem
from invarlock.packer.trust import MAX_STORE_BYTES, TrustedSigner, parse_fingerprint, read_trust_store

from invarlock.errors import SignatureError, UsageError
from invarlock.jsonio import read_json, write_json


def fingerprint_of(text: str) -> str:
    """Return the fingerprint that ``sha256:HEX`` or the path of a public key's PEM file stands for.

    Raises:
        UsageError: when it is neither.
    """
    if text.lower().startswith("sha256:"):
        return parse_fingerprint(text)
    try:
        with Path(text).open("rb") as stream:
            return fingerprint(read_public_pem(stream.read(MAX_PEM_BYTES + 1).decode("ascii")))
    except OSError as error:
        raise UsageError(f"{text}: neither sha256:HEX nor a readable public key file ({error.strerror})") from None
    except (SignatureError, UnicodeDecodeError):
        raise UsageError(f"{text}: not the PEM file of an Ed25519 public key") from None


def add_signer(store: Path, signer: TrustedSigner) -> None:
    """Add a signer to a store, which is made when there is none.

    Raises:
        UsageError: when the store is none or cannot be written, already has the signer, or has them as revoked.
    """

    def add(entries: list[Any]) -> None:
        for entry in _entries_of(entries, signer.fingerprint):
            if isinstance(entry, dict) and entry.get("revoked"):
                raise UsageError(f"{store}: {signer.fingerprint} is revoked there; revoking is for good")
            raise UsageError(f"{store}: {signer.fingerprint} is there already; edit the file to change its dates")
        entries.append(_entry(signer))

    _edit(store, add)


def revoke_signer(store: Path, signer: str) -> bool:
    """Mark a signer as revoked, and return whether the store knew them.

    Raises:
        UsageError: when the store is none or cannot be written.
    """
    known = False

    def revoke(entries: list[Any]) -> None:
        nonlocal known
        for number, entry in enumerate(entries):
            text = entry if isinstance(entry, str) else entry["fingerprint"]
            if text.lower() == signer:
                known = True
                entries[number] = {**({"fingerprint": text} if isinstance(entry, str) else entry), "revoked": True}
        if not known:
            entries.append(_entry(TrustedSigner(signer, revoked=True)))

    _edit(store, revoke)
    return known


def _edit(store: Path, change: Callable[[list[Any]], None]) -> None:
    """Change the entries of a store in its own form, under a lock and in one step."""
    # a store that is a link stays one: what it points to is replaced
    path = store.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            document: Any = {"trusted_signers": []}
            if path.exists():
                read_trust_store(path)
                document = read_json(path, limit_bytes=MAX_STORE_BYTES)
            key = "trusted_signers" if "trusted_signers" in document else "fingerprints"
            change(document if isinstance(document, list) else document[key])
            write_json(path, document)
    except OSError as error:
        raise UsageError(f"{store}: cannot be written ({error.strerror})") from None


def _entries_of(entries: list[Any], signer: str) -> list[Any]:
    return [entry for entry in entries if (entry if isinstance(entry, str) else entry["fingerprint"]).lower() == signer]


def _entry(signer: TrustedSigner) -> dict[str, Any]:
    row: dict[str, Any] = {"fingerprint": signer.fingerprint}
    if signer.name is not None:
        row["name"] = signer.name
    for name, moment in (("not_before", signer.not_before), ("not_after", signer.not_after)):
        if moment is not None:
            row[name] = f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if signer.revoked:
        row["revoked"] = True
    return row
