"""Functions that sign models with a key or a certificate, using the standard's reference library."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from model_signing import hashing, signing

# the library's classes are untyped
HASHING: Any = hashing.Config
SIGNING: Any = signing.Config


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Make an elliptic-curve key pair, and return the paths of the private and the public key."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private))
    _openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return private, public


def make_certificates(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Make a root and a signing certificate; return the paths of the private key, the certificate and the root."""
    key, _ = make_key(folder, name)
    root_key, _ = make_key(folder, f"{name}-root")
    certificate, root, request = (folder / f"{name}{suffix}" for suffix in (".pem", "-root.pem", ".csr"))
    usage = folder / f"{name}.ext"
    usage.write_text("keyUsage = critical,digitalSignature\nextendedKeyUsage = codeSigning\n")
    _openssl("req", "-x509", "-key", str(root_key), "-subj", f"/CN={name} root", "-days", "30", "-out", str(root))
    _openssl("req", "-new", "-key", str(key), "-subj", f"/CN={name}", "-out", str(request))
    issued = ("-CA", str(root), "-CAkey", str(root_key), "-CAcreateserial", "-extfile", str(usage), "-days", "30")
    _openssl("x509", "-req", "-in", str(request), *issued, "-out", str(certificate))
    return key, certificate, root


def sign_with_key(folder: Path, private: Path, *ignored: str, shard_bytes: int | None = None) -> None:
    """Sign the files of a folder, except ignored files, and write ``model.sig`` into it."""
    config = SIGNING().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(_hashing(folder, ignored, shard_bytes)).sign(folder, folder / "model.sig")


def sign_with_certificate(folder: Path, private: Path, certificate: Path, root: Path) -> None:
    """Sign the files of a folder with a certificate, and write ``model.sig`` into it."""
    config = SIGNING().use_certificate_signer(
        private_key=private, signing_certificate=certificate, certificate_chain=[root]
    )
    config.set_hashing_config(_hashing(folder, (), None)).sign(folder, folder / "model.sig")


def _hashing(folder: Path, ignored: tuple[str, ...], shard_bytes: int | None) -> Any:
    config = HASHING()
    if shard_bytes is not None:
        config = config.use_shard_serialization(shard_size=shard_bytes)
    return config.set_ignored_paths(paths=[folder / name for name in ("model.sig", *ignored)])


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], capture_output=True, check=True, timeout=60)
