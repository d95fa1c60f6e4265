"""Permission checks for trust stores and private keys, similar to those of ssh.

A world-writable file is refused, because any local user could then decide whom a receiver trusts, or which key signs.
Other excess access only causes a warning, although ssh would refuse such a private key. Secrets that Kubernetes or a CI
system mounts belong to another user and are often readable by all; the user cannot change that, and a run of many hours
must not lose its pack because of it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from invarlock.errors import UsageError
from invarlock.problems import Code


def check_nobody_else_writes(path: Path) -> None:
    """Check that neither a file nor its folder is world-writable.

    Raises:
        UsageError: when one of them is world-writable. A folder with the sticky bit, such as ``/tmp``, is accepted
            because it protects its files.
    """
    for place in (path, path.resolve().parent):
        mode = _mode(place)
        if mode & stat.S_IWOTH and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            raise UsageError(
                f"{place}: every user of this machine may write it (mode {stat.S_IMODE(mode):04o}); "
                f"run: chmod o-w {place}",
                code=Code.WRITABLE_BY_EVERYBODY,
            )


def store_warnings(path: Path) -> list[str]:
    """Return a warning if a trust store can be changed by a group, or by an owner other than this user or root."""
    return [*_group_writes(path), *_foreign_owner(path)]


def key_warnings(path: Path) -> list[str]:
    """Return a warning if others may read or change a private key."""
    mode = _mode(path)
    warnings = [*_group_writes(path), *_foreign_owner(path)]
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        others = "every user of this machine" if mode & stat.S_IROTH else "its group"
        warnings.append(
            f"{path}: {others} may read this private key (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
        )
    return warnings


def _group_writes(path: Path) -> list[str]:
    mode = _mode(path)
    if not mode & stat.S_IWGRP:
        return []
    return [f"{path}: its group may change it (mode {stat.S_IMODE(mode):04o}); run: chmod g-w {path}"]


def _foreign_owner(path: Path) -> list[str]:
    try:
        owner = path.stat().st_uid
    except OSError:
        return []
    if owner in (0, os.geteuid()):
        return []
    return [f"{path}: belongs to another user (uid {owner}), who may change it"]


def _mode(path: Path) -> int:
    """Return a file's mode, or 0 (no access) if it does not exist."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0
