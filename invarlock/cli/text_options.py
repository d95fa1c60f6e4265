"""The values of ``--text`` and ``--slice-limit`` of ``invarlock evaluate`` and ``invarlock tune``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from invarlock.errors import UsageError
from invarlock.problems import Code

# A name as in ``dataset.slices`` of a report, and a file.
_SLICE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)")


def texts_of(given: Sequence[str]) -> Path | dict[str, Path]:
    """Return the text of ``--text FILE``, or the slices of ``--text NAME=FILE``, by name.

    Raises:
        UsageError: when one of several has no name, or two have the same.
    """
    if len(given) == 1 and (Path(given[0]).exists() or not _SLICE.fullmatch(given[0])):
        return Path(given[0])
    texts: dict[str, Path] = {}
    for text in given:
        found = _SLICE.fullmatch(text)
        if found is None:
            raise UsageError(
                f"--text: {text[:80]!r} has no name; give each of several texts as NAME=FILE, with a name of letters, "
                "digits, dots, dashes and underscores",
                code=Code.OPTIONS_CONFLICT,
            )
        name, path = found.groups()
        if name in texts:
            raise UsageError(
                f"--text: two texts are called {name!r}; give each its own name", code=Code.OPTIONS_CONFLICT
            )
        texts[name] = Path(path)
    return texts


def slice_limits_of(given: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the limits of ``--slice-limit NAME.LIMIT=VALUE``, by slice and by their names.

    Raises:
        UsageError: when one has another form.
    """
    limits: dict[str, dict[str, float]] = {}
    for text in given:
        left, _, value = text.partition("=")
        name, _, limit = left.rpartition(".")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            raise UsageError(
                f"--slice-limit: {text[:80]!r} is not a limit; write NAME.LIMIT=VALUE: code.ratio_limit=1.2",
                code=Code.OPTIONS_CONFLICT,
            )
        limits.setdefault(name, {})[limit] = int(number) if value.isdigit() else number
    return limits
