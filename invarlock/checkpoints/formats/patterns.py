"""Regular expressions from configs, matched with names of modules in a limited time."""

from __future__ import annotations

import re
from functools import cache

MAX_PATTERN, MAX_NAME = 500, 200
# The time of a match grows exponentially with these counts, and with repeats of groups.
MAX_REPEATS, MAX_OPTIONAL, MAX_GROUPS = 4, 4, 4
_ESCAPED = re.compile(r"\\.")
_REPEAT, _OPTIONAL, _GROUP = re.compile(r"[*+]"), re.compile(r"(?<!\()\?"), re.compile(r"\(")
_REPEATED_GROUP = re.compile(r"\)[*+{]|\{")


def begins(pattern: str, module: str, end: str = "") -> bool | None:
    r"""Return whether a pattern, and ``end`` after it, match the beginning of a module's name, as ``re.match`` does.

    None if the pattern is malformed, or could take too long to match.

    Example::

        >>> begins(r"model\.layers\.\d+\.(mlp|self_attn)", "model.layers.10.mlp.up_proj")
        True
        >>> begins("(a+)+$", "model.layers.10.mlp.up_proj") is None
        True
    """
    found = _prepare(pattern, end)
    return None if found is None or len(module) > MAX_NAME else found.match(module) is not None


@cache
def _prepare(pattern: str, end: str) -> re.Pattern[str] | None:
    plain = _ESCAPED.sub("_", pattern)
    if (
        len(pattern) > MAX_PATTERN
        or len(_REPEAT.findall(plain)) > MAX_REPEATS
        or len(_OPTIONAL.findall(plain)) > MAX_OPTIONAL
        or len(_GROUP.findall(plain)) > MAX_GROUPS
        or _REPEATED_GROUP.search(plain)
    ):
        return None
    try:
        return re.compile(f"(?:{pattern}){end}")
    except (re.error, RecursionError, OverflowError):
        return None
