"""The name of a checkpoint: that of its folder, or in the hub's cache that of its repository.

Example::

    >>> checkpoint_name(Path("/models/Mistral-7B-GPTQ"))
    'Mistral-7B-GPTQ'
    >>> checkpoint_name(Path("/cache/models--org--name/snapshots/0123abcd"))
    'org/name'
"""

from __future__ import annotations

from pathlib import Path

from invarlock.errors import printable

MAX_NAME_CHARACTERS = 200
_CACHED = "models--"


def checkpoint_name(folder: Path) -> str:
    """Return the name of a checkpoint, without control characters; a relative path or a link is resolved first."""
    path = folder.resolve()
    cached = path.parents[1].name if len(path.parents) > 1 and path.parent.name == "snapshots" else ""
    name = cached.removeprefix(_CACHED).replace("--", "/", 1) if cached.startswith(_CACHED) else path.name
    return printable(name)[:MAX_NAME_CHARACTERS] or "/"
