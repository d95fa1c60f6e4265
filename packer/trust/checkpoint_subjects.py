"""Checkpoints as subjects of a statement, identified by digests that other tools know.

Example, of a checkpoint whose files are known::

    mistral/baseline                      its digest in our reports
    mistral/baseline/config.json          the SHA-256 of each file
    mistral/baseline#model-signature      the digest of its OpenSSF model signature

Source: OpenSSF Model Signing v1.0, ``model_signing._signing.signing.Payload``: the digest of a model is the SHA-256
over the SHA-256 digests of its files, in the order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.packer.trust.attested import AttestedPack

from invarlock.catalog.pins import combine_digests
from invarlock.digests import sha256_hex
from invarlock.documents import JsonObject

CHECKPOINT_DIGEST = (
    "sha256 over the sorted lines '<sha256 of file>  <name>' of the checkpoint's weight, config and tokenizer files"
)
MODEL_SIGNATURE_DIGEST = "OpenSSF Model Signing v1.0: sha256 over the sha256 digests of the files, sorted by name"
MODEL_SIGNATURE_SUFFIX = "#model-signature"

_DIGEST = re.compile(r"[0-9a-f]{64}")


def model_signature_digest(files: Mapping[str, str]) -> str:
    """Return the digest (64 hex) of an OpenSSF model signature over files; ``files`` maps names to SHA-256 (64 hex)."""
    ordered = sorted(files.items(), key=lambda file: file[0].split("/"))
    return sha256_hex(b"".join(bytes.fromhex(file_digest) for _, file_digest in ordered))


def checkpoint_subjects(pack: AttestedPack, files: Mapping[str, Mapping[str, str]]) -> Iterator[JsonObject]:
    """Yield each distinct checkpoint of a pack, baselines named by model and subjects by the first of their cases.

    Args:
        pack: the facts of the pack.
        files: the files of checkpoints, by the checkpoint's digest, for checkpoints whose files are known.
    """
    names: dict[str, str] = {}
    for model, digest in sorted(pack.baselines.items()):
        names.setdefault(digest, f"{model}/baseline")
    for report in pack.reports:
        # the files of a served subject are not known
        if report.subject_digest is not None:
            names.setdefault(report.subject_digest, report.name)
    for digest, name in names.items():
        known = files.get(digest)
        row: JsonObject = {
            "name": name,
            "digest": {"sha256": digest.removeprefix("sha256:")},
            "annotations": {"digest_method": CHECKPOINT_DIGEST},
        }
        if known is None:
            yield row
            continue
        yield {**row, "annotations": {**row["annotations"], "files": dict(sorted(known.items()))}}
        for file, file_digest in sorted(known.items()):
            yield {"name": f"{name}/{file}", "digest": {"sha256": file_digest}}
        yield {
            "name": f"{name}{MODEL_SIGNATURE_SUFFIX}",
            "digest": {"sha256": model_signature_digest(known)},
            "annotations": {"digest_method": MODEL_SIGNATURE_DIGEST},
        }


def stated_files(statement: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the files that a statement lists for its checkpoints, by the checkpoint's digest.

    Files are left out if their digests do not combine to the digest of their checkpoint.
    """
    found = {}
    for subject in statement["subject"]:
        annotations = subject.get("annotations")
        files = annotations.get("files") if isinstance(annotations, dict) else None
        digest = f"sha256:{subject['digest']['sha256']}"
        if isinstance(files, dict) and _is_listing(files) and combine_digests(files) == digest:
            found[digest] = files
    return found


def _is_listing(files: Mapping[str, Any]) -> bool:
    plain = (name.isprintable() and isinstance(digest, str) for name, digest in files.items())
    return all(plain) and all(map(_DIGEST.fullmatch, files.values()))
