"""Attesting a signed pack: adding a statement by its signer, as a DSSE envelope and as a Sigstore bundle."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from invarlock.packer.build.signing import add_file, verified
from invarlock.packer.format.checksums import ATTESTATIONS, BUNDLES
from invarlock.packer.format.limits import MAX_TEXT_BYTES
from invarlock.packer.trust.attestation import make_statement
from invarlock.packer.trust.attested import AttestedPack
from invarlock.packer.trust.bundles import make_bundle
from invarlock.packer.trust.envelopes import sign_statement
from invarlock.packer.trust.keys import SigningKey, fingerprint
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack

from invarlock.catalog.pins import combine_digests
from invarlock.errors import InvarLockError, SignatureError, UsageError
from invarlock.jsonio import dump_json, read_file
from invarlock.moments import utc_now
from invarlock.named_files import write_result
from invarlock.problems import Code

_SHA256SUM = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?([^/\\\0]{1,255})")


def attest_pack(
    pack: Path, key: SigningKey, predicate: str = "invarlock", files: Sequence[Mapping[str, str]] = ()
) -> str:
    """Verify a signed pack and put a statement with a predicate into it; return the signer's fingerprint.

    Args:
        pack: the folder of the pack.
        key: the key of its signer.
        predicate: ``invarlock``, ``svr`` or ``test-result``.
        files: the files of subject checkpoints that the statement names: SHA-256 (64 hex) by name.

    Raises:
        UsageError: when the pack already has this attestation, has no verdict, or ``files`` match none of its
            checkpoints.
        SignatureError: when the key does not belong to the pack's signer.
        InvarLockError: with the problems of the pack and their exit code, when it does not verify.
    """
    names = (ATTESTATIONS[predicate], BUNDLES[predicate])
    for name in names:
        if os.path.lexists(pack / name):
            raise UsageError(
                "already has this attestation; it is never replaced", code=Code.ALREADY_SIGNED, where=str(pack)
            )
    result = verified(pack, {})
    signer = fingerprint(key.public)
    if result.signer != signer:
        words = f"its signer is {result.signer or 'nobody'}, but this key is {signer}; use the signer's key"
        raise SignatureError(words, where=str(pack), code=Code.SIGNER_DIFFERS)
    attestable = _attestable(result)
    known = _known(attestable, files)
    envelope = sign_statement(make_statement(predicate, attestable, utc_now(), known), key)
    added = dict(zip(names, (dump_json(envelope), dump_json(make_bundle(envelope))), strict=True))
    verified(pack, added)
    for name, data in added.items():
        add_file(pack, name, data)
    return signer


def write_predicate(
    pack: Path, predicate: str, target: Path, subjects: Path, files: Sequence[Mapping[str, str]] = ()
) -> VerifyResult:
    """Verify a pack, signed or not, and write a predicate and its subjects for another tool to sign.

    One such tool is the GitHub action ``actions/attest``.

    Args:
        pack: the folder of the pack.
        predicate: ``invarlock``, ``svr`` or ``test-result``.
        target: the JSON file to write the predicate to.
        subjects: the file to write the subjects to, in the format of ``sha256sum``.
        files: the files of subject checkpoints that the statement names: SHA-256 (64 hex) by name.

    Raises:
        UsageError: when the pack has no verdict, ``files`` match none of its checkpoints, or a file cannot be written.
        InvarLockError: with the problems of the pack and their exit code, when it does not verify.
    """
    result = verify_pack(pack, VerifyOptions(allow_unsigned=True))
    if not result.holds:
        raise InvarLockError(f"{pack}: does not verify: {result.problems[0]}", problems=result.problems)
    attestable = _attestable(result)
    statement = make_statement(predicate, attestable, utc_now(), _known(attestable, files))
    lines = [f"{row['digest']['sha256']}  {row['name']}\n" for row in statement["subject"]]
    write_result(target, dump_json(statement["predicate"]), "--predicate-out")
    write_result(subjects, "".join(lines).encode(), "--subjects-out")
    return result


def _attestable(result: VerifyResult) -> AttestedPack:
    if result.attestable is None:
        raise UsageError(
            "claims no verdict, so there is nothing to attest",
            code=Code.VERDICT_NOT_CLAIMED,
            where=str(result.pack),
        )
    return result.attestable


def _known(pack: AttestedPack, files: Sequence[Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """Return the files of checkpoints by the checkpoint's digest.

    Raises:
        UsageError: when a checkpoint is not a subject of the pack.
    """
    known = {combine_digests(one): one for one in files}
    unknown = known.keys() - {report.subject_digest for report in pack.reports}
    if unknown:
        raise UsageError(
            f"--checkpoint-files: {sorted(unknown)[0]} is not the digest of a subject of this pack; list exactly the "
            "weight, config and tokenizer files of one",
            code=Code.USAGE_INVALID,
        )
    return known


def read_file_lists(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Read outputs of ``sha256sum``; each becomes a mapping of file name to SHA-256 (64 hex).

    Raises:
        MissingFileError, UsageError: when a file cannot be read or is not in this format.
    """
    lists = []
    for path in paths:
        lines = read_file(path, limit_bytes=MAX_TEXT_BYTES).decode("utf-8", "replace").splitlines()
        found = [_SHA256SUM.fullmatch(line) for line in lines]
        if not lines or None in found:
            raise UsageError(
                "not the output of sha256sum; run it in the folder of the checkpoint",
                where=str(path),
                code=Code.USAGE_INVALID,
            )
        lists.append({match[2]: match[1] for match in found if match is not None})
    return lists
