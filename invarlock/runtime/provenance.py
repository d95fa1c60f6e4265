"""The provenance of evidence: source repository and environment, without names of machine or user.

A copy of a checkout without its repository (a container image, an archive) stores its provenance in a source marker
file, which is created in the checkout::

    python -m invarlock.runtime.provenance source_repo.json
"""

from __future__ import annotations

import platform
import runpy
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit, urlunsplit

from invarlock.boundary import run_command
from invarlock.documents.provenance import (
    DeterminismSwitches,
    Environment,
    Graphics,
    Product,
    SourceRepository,
    TorchBuild,
)
from invarlock.errors import MissingFileError, UsageError
from invarlock.jsonio import check_schema, dump_json, read_json
from invarlock.named_files import write_result
from invarlock.problems import Code
from invarlock.runtime.handover import code_digest, read_handover

MARKER_NAME = "source_repo.json"
NO_SOURCE = (
    "no git repository and no source marker file, but a pack records its source; work in a git checkout, or "
    f"create the file in the original checkout: python -m invarlock.runtime.provenance {MARKER_NAME}"
)
# git answers in milliseconds; after this time it counts as hung, for example on a network file system.
GIT_TIMEOUT_SECONDS = 20
LIBRARIES = (
    "accelerate", "flash_attn", "huggingface_hub", "invarlock", "numpy", "pynacl", "pytest", "pytest-xdist",
    "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


def source_of(folder: Path) -> SourceRepository | None:
    """Return the source of a folder: its source marker file, its repository, or the nearest marker above, or None.

    In a container, this is the source determined outside, where git is available.

    Raises:
        DocumentError: when the marker file does not match its schema.
    """
    handover = read_handover()
    if handover is not None and handover.source is not None:
        return cast("SourceRepository", dict(handover.source))
    # the suites of an installed wheel may be in an environment inside another project's repository
    if (folder / MARKER_NAME).is_file():
        return read_marker(folder / MARKER_NAME)
    found = source_repository(folder)
    if found is not None:
        return found
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / MARKER_NAME).is_file():
            return read_marker(parent / MARKER_NAME)
    return None


def read_marker(path: Path) -> SourceRepository:
    """Return the content of a source marker file.

    Raises:
        DocumentError: when it does not match its schema.
    """
    document: SourceRepository = read_json(path)
    check_schema(document, "source_repo", where=str(path))
    return document


def source_repository(folder: Path) -> SourceRepository | None:
    """Return commit, branch, describe, dirty and uri of a folder's repository, or None outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    uri = _git(folder, "config", "--get", "remote.origin.url")
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    return {
        "schema": "invarlock/source-repo-v1",
        "commit": commit,
        # git's output for a detached HEAD, as in CI
        "branch": None if branch == "HEAD" else branch,
        "describe": _git(folder, "describe", "--always", "--dirty", "--tags"),
        "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        "uri": None if uri is None else _public_uri(uri),
    }


def environment(determinism: DeterminismSwitches, graphics: Graphics) -> Environment:
    """Return platform, versions, GPUs and determinism switches for ``metadata/environment.json``.

    Args:
        determinism: the switches of the run's determinism mode.
        graphics: the GPUs of the run, with their driver.
    """
    document: Environment = {
        "schema": "invarlock/environment-v1",
        "platform": {"system": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "product": product(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
        "torch": _torch_build(),
        "graphics": cast("Graphics", dict(graphics)),
        "determinism": cast("DeterminismSwitches", dict(determinism)),
    }
    check_schema(document, "environment", where="environment.json")
    return document


def product() -> Product:
    """Return InvarLock's version, the digest of its code, and its commit if it runs from a checkout.

    A user's own suites folder is in another repository, which ``source_of`` returns.
    """
    own = Path(__file__).parents[1]
    # a repository that merely contains the virtual environment does not track the installed code
    tracked = _git(own, "ls-files", "--error-unmatch", "__init__.py") is not None
    repository = source_repository(own) if tracked else None
    return {
        "version": _version("invarlock"),
        "code": code_digest(),
        "commit": None if repository is None else repository["commit"],
        "dirty": None if repository is None else repository["dirty"],
    }


def _torch_build() -> TorchBuild:
    """Return the CUDA version and commit of PyTorch's build, from the file in which its build records them.

    Importing PyTorch for this would cost the controller more than a second.
    """
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {"cuda": None, "commit": None}
    build = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return {"cuda": build.get("cuda"), "commit": build.get("git_version")}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.strip()
    return text if done.returncode == 0 and text else None


def _public_uri(uri: str) -> str | None:
    """Return a remote's address without credentials, or None for a local path."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https", "ssh", "git") and parts.hostname:
        port = f":{parts.port}" if parts.port else ""
        return urlunsplit((parts.scheme, f"{parts.hostname}{port}", parts.path, "", ""))
    host, separator, path = uri.partition(":")
    if separator and "/" not in host and not path.startswith("/"):
        return f"{host.rpartition('@')[2]}:{path}"
    return None


def main() -> int:
    """Write the source marker file of the repository in the working directory."""
    return run_command(lambda: _write_marker(sys.argv[1:]))


def _write_marker(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UsageError(f"usage: python -m invarlock.runtime.provenance {MARKER_NAME}", code=Code.USAGE_INVALID)
    found = source_repository(Path.cwd())
    if found is None:
        raise MissingFileError(
            f"{Path.cwd()}: not a git repository, or git is not installed; run this in the checkout",
            code=Code.FILE_MISSING,
        )
    write_result(Path(arguments[0]), dump_json(found), MARKER_NAME)
    return 0


if __name__ == "__main__":
    sys.exit(main())
