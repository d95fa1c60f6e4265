"""OpenSSF model signatures, which prove who signed the files of a checkpoint.

Example::

    wanted = parse_signature("subject=key:maker.pub")
    verify_signature(Path("quantised"), wanted)      # ModelSignature("key", "sha256:9f2c…", "sha256:41d0…")

The signature is ``model.sig`` in the checkpoint's folder. The standard's own library verifies it offline.

Source: OpenSSF Model Signing v1.0 (https://github.com/sigstore/model-transparency).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from invarlock.checkpoints.layout import checkpoint_files, checkpoint_folder
from invarlock.digests import digest_bytes
from invarlock.errors import CheckpointError, UsageError
from invarlock.jsonio import read_file
from invarlock.problems import Code

SIGNATURE_FILE = "model.sig"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# A signature has some 150 bytes for each file; a Sigstore bundle has a few kilobytes of proofs.
MAX_SIGNATURE_BYTES = 16 * 1024 * 1024
FORM = (
    "write SIDE=key:FILE, SIDE=certificate:FILE or SIDE=sigstore:IDENTITY,ISSUER,TRUST_CONFIG_FILE; SIDE is baseline "
    "or subject"
)

Side = Literal["baseline", "subject"]

_WANTED = re.compile(r"(baseline|subject)=(key|certificate|sigstore):(.+)")


@dataclass(frozen=True)
class RequiredSignature:
    """A required signature of a checkpoint: its side, how it was signed, and what is trusted.

    ``trusted`` is the file of a public key, the file of a root certificate, or an identity, its issuer and a file with
    the roots.
    """

    side: Side
    method: str
    trusted: tuple[str, ...]


@dataclass(frozen=True)
class ModelSignature:
    """A verified signature: its kind, its signer, and the signed digest of the model (``sha256:<hex>``).

    ``signer`` is the digest of a public key, the subject of a certificate, or an identity and its issuer.
    """

    method: str
    signer: str
    digest: str

    def document(self) -> dict[str, str]:
        """Return the signature in the form of a report."""
        return asdict(self)


def parse_signature(text: str) -> RequiredSignature:
    """Return the signature that an option requires, such as ``subject=key:maker.pub``.

    Raises:
        UsageError: when the option is malformed, or a file does not exist.
    """
    match = _WANTED.fullmatch(text)
    trusted = () if match is None else tuple(match[3].split(",")) if match[2] == "sigstore" else (match[3],)
    if match is None or len(trusted) != (3 if match[2] == "sigstore" else 1):
        raise UsageError(f"--model-signature: {text[:200]!r} has another form; {FORM}", code=Code.USAGE_INVALID)
    if not Path(trusted[-1]).is_file():
        raise UsageError(f"--model-signature: {trusted[-1]}: no such file", code=Code.INPUT_UNREADABLE)
    return RequiredSignature(cast("Side", match[1]), match[2], trusted)


def check_sides(wanted: Sequence[RequiredSignature]) -> None:
    """Check that at most one signature is required for each side.

    Raises:
        UsageError: when a side has two.
    """
    if len({one.side for one in wanted}) < len(wanted):
        raise UsageError("--model-signature: give one for each side", code=Code.OPTIONS_CONFLICT)


def signatures_of(
    baseline: Path, subject: Path, wanted: Sequence[RequiredSignature], *, verified: bool = False
) -> dict[str, dict[str, str]]:
    """Return the required signatures of two checkpoints, by side, in the form of a report.

    Args:
        baseline: the folder of the baseline.
        subject: the folder of the subject.
        wanted: at most one for each side.
        verified: whether they were verified before, so that the files need not be hashed again.

    Raises:
        CheckpointError: when a signature is missing or invalid.
        UsageError: when the library is not installed.
    """
    folders = {"baseline": baseline, "subject": subject}
    look = read_signature if verified else verify_signature
    return {one.side: look(folders[one.side], one).document() for one in wanted}


def read_signature(folder: Path, wanted: RequiredSignature) -> ModelSignature:
    """Return the content of a checkpoint's signature, without verifying it.

    Raises:
        CheckpointError: when the signature is missing or cannot be read.
    """
    path = signature_file(folder)
    try:
        bundle = json.loads(read_file(path, limit_bytes=MAX_SIGNATURE_BYTES))
        return _described(bundle, _statement(bundle), wanted)
    except Exception as error:  # noqa: BLE001 - it is not documented which errors a hostile signature raises
        raise _refused(folder, _words(error)) from None


def verify_signature(folder: Path, wanted: RequiredSignature) -> ModelSignature:
    """Return the signature of a checkpoint after verifying it and every file that it lists.

    Raises:
        CheckpointError: when it is missing or not by the trusted signer, or a file differs or is not signed.
        UsageError: when the library is not installed.
    """
    library = _library()
    where, path = checkpoint_folder(folder), signature_file(folder)
    try:
        bundle = json.loads(read_file(path, limit_bytes=MAX_SIGNATURE_BYTES))
        statement = _statement(bundle)
        config = _configured(library.verifying.Config(), wanted)
        in_files = statement["predicate"]["serialization"]["method"] == "files"
        # the folder may have other files; unsigned files of the checkpoint are refused below
        config.set_ignore_unsigned_files(in_files)
        config.set_hashing_config(_hashing(library, where, statement["predicate"]["serialization"]))
        config.verify(where, path)
        names = (row["name"] for row in statement["predicate"]["resources"])
        signed = set(names) if in_files else {name.rsplit(":", 2)[0] for name in names}
        found = _described(bundle, statement, wanted)
    except Exception as error:  # noqa: BLE001 - it is not documented which errors a hostile signature raises
        raise _refused(folder, _words(error)) from None
    unsigned = sorted(set(checkpoint_files(folder)) - signed)
    if unsigned:
        raise _refused(folder, f"it does not cover {unsigned[0]}")
    return found


def signature_file(folder: Path) -> Path:
    """Return the file of a checkpoint's signature.

    Raises:
        CheckpointError: when the folder has no ``model.sig``.
    """
    path = checkpoint_folder(folder) / SIGNATURE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: has no {SIGNATURE_FILE}; get the signature of the model, or leave --model-signature out",
            code=Code.MODEL_SIGNATURE_MISSING,
        )
    return path


def _described(bundle: Mapping[str, Any], statement: Mapping[str, Any], wanted: RequiredSignature) -> ModelSignature:
    digest = f"sha256:{statement['subject'][0]['digest']['sha256']}"
    return ModelSignature(wanted.method, _signer(bundle, wanted), digest)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _configured(config: Any, wanted: RequiredSignature) -> Any:
    """Return the library's configuration for the trusted signer."""
    if wanted.method == "key":
        return config.use_elliptic_key_verifier(public_key=Path(wanted.trusted[0]))
    if wanted.method == "certificate":
        return config.use_certificate_verifier(certificate_chain=[Path(wanted.trusted[0])])
    identity, issuer, roots = wanted.trusted
    # without this file, the library would download the roots
    return config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer, trust_config=Path(roots))


def _hashing(library: Any, where: Path, serialization: Mapping[str, Any]) -> Any:
    """Return how the files of a signature are hashed; links are followed, because caches and snapshots use links."""
    config, algorithm = library.hashing.Config(), serialization["hash_type"]
    if serialization["method"] == "files":
        config.use_file_serialization(hashing_algorithm=algorithm)
    else:
        config.use_shard_serialization(hashing_algorithm=algorithm, shard_size=int(serialization["shard_size"]))
    config.add_ignored_paths(model_path=where, paths=[SIGNATURE_FILE])
    return config.set_allow_symlinks(True)


def _statement(bundle: Mapping[str, Any]) -> Mapping[str, Any]:
    statement: Mapping[str, Any] = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    if statement["predicateType"] != PREDICATE_TYPE:
        raise ValueError("made by a version before 1.0 of the standard; sign the model again")
    return statement


def _signer(bundle: Mapping[str, Any], wanted: RequiredSignature) -> str:
    """Return the signer of a verified signature."""
    # installed with the library
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    if wanted.method == "key":
        key = load_pem_public_key(read_file(Path(wanted.trusted[0]), limit_bytes=MAX_SIGNATURE_BYTES))
        return digest_bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if wanted.method == "sigstore":
        return f"{wanted.trusted[0]} ({wanted.trusted[1]})"
    first = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
    return x509.load_der_x509_certificate(base64.b64decode(first["rawBytes"])).subject.rfc4514_string()


def _refused(folder: Path, words: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: its model signature does not hold: {words}; get the model again, or ask its signer",
        code=Code.MODEL_SIGNATURE_DOES_NOT_HOLD,
    )


def _library() -> Any:
    try:
        # an optional extra
        import model_signing
    except ImportError:
        raise UsageError(
            "model signatures need the package model-signing: pip install 'invarlock[model-signatures]'",
            code=Code.EXTRA_NOT_INSTALLED,
        ) from None
    return model_signing
