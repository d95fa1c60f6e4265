"""The commands of keys, signatures and trusted signers: each calls the function that does it and prints the result.

Each command imports its dependencies itself, so that ``--help`` stays fast.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.packer.format.checksums import ATTESTATIONS, BUNDLES, TIMESTAMP_NAME
from invarlock.packer.trust.file_access import key_warnings, store_warnings

from invarlock.errors import UsageError
from invarlock.output import say, say_error, say_json
from invarlock.pages.parts import counted
from invarlock.problems import Code

if TYPE_CHECKING:
    from invarlock.packer.trust.keys import SigningKey


def keygen(options: Namespace) -> int:
    """Make a signing key, write the private and the public key, and print their paths and the fingerprint."""
    # imported here to keep --help fast
    from invarlock.packer.trust.keys import fingerprint, make_signing_key, write_key_pair

    key = make_signing_key()
    private, public = write_key_pair(options.name, key, _passphrase(options))
    kept = "keep it secret" if options.passphrase_env is None else "encrypted"
    say(f"private key: {private} ({kept})", f"public key:  {public}", f"fingerprint: {fingerprint(key.public)}")
    return 0


def sign(options: Namespace) -> int:
    """Sign the manifest of a pack, request a time stamp of its signature, or both."""
    # imported here to keep --help fast
    from invarlock.packer.build.signing import sign_pack, stamp_pack

    url = options.timestamp_url
    if options.signing_key is not None:
        signer = sign_pack(options.pack, signing_key(options), url)
        say(f"signed {options.pack}", f"signer: {signer}")
    elif url is not None:
        say(f"signer: {stamp_pack(options.pack, url)}")
    else:
        raise UsageError(
            "give --signing-key to sign the pack, or --timestamp-url to stamp a signed one", code=Code.USAGE_INVALID
        )
    if url is not None:
        say(f"time stamp: {options.pack / TIMESTAMP_NAME}, by {url}")
    return 0


def attest(options: Namespace) -> int:
    """Sign an in-toto statement about a pack, as a DSSE envelope and as a Sigstore bundle, or write what to sign.

    Raises:
        UsageError: when neither a key nor both output files are given, or when all of them are.
    """
    # imported here to keep --help fast
    from invarlock.packer.build.attesting import attest_pack, read_file_lists, write_predicate
    from invarlock.packer.trust.predicates import PREDICATES

    name = options.predicate
    files = read_file_lists(options.checkpoint_files)
    outputs = [path for path in (options.predicate_out, options.subjects_out) if path is not None]
    if len(outputs) != (0 if options.signing_key is not None else 2):
        raise UsageError(
            "give --signing-key to attest the pack, or --predicate-out and --subjects-out for another signer",
            code=Code.OPTIONS_CONFLICT,
        )
    if outputs:
        write_predicate(options.pack, name, outputs[0], outputs[1], files)
        say(f"predicate: {outputs[0]}, of type {PREDICATES[name].type}", f"subjects: {outputs[1]}")
        return 0
    signer = attest_pack(options.pack, signing_key(options), name, files)
    say(f"attested {options.pack}: {ATTESTATIONS[name]}, {BUNDLES[name]}", f"signer: {signer}")
    return 0


def trust_add(options: Namespace) -> int:
    """Add a signer to the trust store."""
    # imported here to keep --help fast
    from invarlock.packer.trust.editing import add_signer, fingerprint_of
    from invarlock.packer.trust.signers import TrustedSigner, parse_moment

    signer = TrustedSigner(
        fingerprint_of(options.signer),
        options.name,
        None if options.not_before is None else parse_moment(options.not_before),
        None if options.not_after is None else parse_moment(options.not_after),
    )
    store = _store(options)
    add_signer(store, signer)
    say(f"trusted: {signer.fingerprint} in {store}")
    return 0


def trust_list(options: Namespace) -> int:
    """Print the signers of the trust store."""
    # imported here to keep --help fast
    from invarlock.packer.trust.signers import read_trust_store

    store = _store(options)
    if not store.exists() and options.trust_store is None:
        say("[]" if options.json else f"no signer is trusted: {store} does not exist; add a signer with 'trust add'")
        return 0
    signers = read_trust_store(store)
    now = datetime.now(UTC)
    rows = []
    for signer in signers:
        refusal = signer.refuses(now)
        refused = None if refusal is None else refusal.reason
        rows.append({"fingerprint": signer.fingerprint, "name": signer.name, "refused": refused})
    if options.json:
        say_json(rows)
        return 0
    for row in rows:
        say(f"{row['fingerprint']}  {row['name'] or '-'}  {(row['refused'] or 'trusted').removeprefix('it is ')}")
    say(f"{counted(len(rows), 'signer')} in {store}")
    return 0


def trust_revoke(options: Namespace) -> int:
    """Mark a signer of the trust store as revoked."""
    # imported here to keep --help fast
    from invarlock.packer.trust.editing import fingerprint_of, revoke_signer
    from invarlock.packer.trust.signers import parse_moment

    signer = fingerprint_of(options.signer)
    since = None if options.since is None else parse_moment(options.since)
    known = revoke_signer(_store(options), signer, since)
    say(f"revoked: {signer}" + ("" if known else " (it was not in the store; it was added as revoked)"))
    return 0


def _passphrase(options: Namespace) -> bytes | None:
    # imported here to keep --help fast
    from invarlock.packer.trust.keys import passphrase_from

    return None if options.passphrase_env is None else passphrase_from(options.passphrase_env)


def signing_key(options: Namespace) -> SigningKey:
    """Return the key in the file of ``--signing-key``."""
    return key_in(options.signing_key, options)


def key_in(path: Path, options: Namespace) -> SigningKey:
    """Return the key in a file, and print warnings about its permissions."""
    # imported here to keep --help fast
    from invarlock.packer.trust.keys import load_signing_key

    key = load_signing_key(path, _passphrase(options))
    _warn(key_warnings(path))
    return key


def _store(options: Namespace) -> Path:
    # imported here to keep --help fast
    from invarlock.packer.trust.signers import own_store

    store: Path = options.trust_store or own_store()
    _warn(store_warnings(store))
    return store


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        say_error(f"warning: {line}")
