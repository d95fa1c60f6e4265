"""Where evidence comes from: the source repository and the environment, without names of machine or user."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

# git answers in milliseconds; one that does not is hung on a network filesystem.
GIT_TIMEOUT_SECONDS = 20
LIBRARIES = (
    "accelerate", "huggingface_hub", "invarlock", "numpy", "pynacl", "pytest", "pytest-xdist", "safetensors",
    "tokenizers", "torch", "transformers",
)  # fmt: skip


def source_repository(folder: Path) -> dict[str, Any] | None:
    """Return commit, branch, describe, dirty and uri of a folder's repository; None when it lies in none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    uri = _git(folder, "config", "--get", "remote.origin.url")
    return {
        "schema": "invarlock/source-repo-v1",
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "describe": _git(folder, "describe", "--always", "--dirty", "--tags"),
        "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        "uri": None if uri is None else _public_uri(uri),
    }


def environment() -> dict[str, Any]:
    """Return platform, Python and library versions."""
    return {
        "schema": "invarlock/environment-v1",
        "platform": {"system": platform.system(), "release": platform.release(), "machine": platform.machine()},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "libraries": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
    }


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
    """Return a remote's address without credentials; None for a path of this machine."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https", "ssh", "git") and parts.hostname:
        port = f":{parts.port}" if parts.port else ""
        return urlunsplit((parts.scheme, f"{parts.hostname}{port}", parts.path, "", ""))
    host, separator, path = uri.partition(":")
    if separator and "/" not in host and not path.startswith("/"):
        return f"{host.rpartition('@')[2]}:{path}"
    return None
