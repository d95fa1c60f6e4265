"""Regular expressions for names of modules, which quantisation configs contain.

Configs are not trusted: a pattern can be written so that matching one name takes years. Each match therefore has a time
limit, which the patterns that tools write never reach.

Example::

    >>> matches(r".*layers\\.\\d+\\.mlp\\.", "model.layers.0.mlp.down_proj")
    True
"""

from __future__ import annotations

MAX_CHARACTERS = 500
# A match takes microseconds; the limit is wall-clock time, and another process may take the core.
MATCH_SECONDS = 2.0


class UnusablePatternError(ValueError):
    """A pattern that is not a regular expression, is too long, or takes too long to match."""


def matches(pattern: str, module: str) -> bool:
    """Return whether a pattern matches the beginning of a module's name, as ``re.match`` does.

    Raises:
        UnusablePatternError: when the pattern cannot be evaluated.
    """
    # imported here so that formats without patterns do not need it
    import regex

    if len(pattern) > MAX_CHARACTERS:
        raise UnusablePatternError(f"the pattern {pattern[:40]!r} has more than {MAX_CHARACTERS} characters")
    try:
        return regex.match(pattern, module, timeout=MATCH_SECONDS) is not None
    except TimeoutError:
        raise UnusablePatternError(f"the pattern {pattern[:40]!r} takes too long to match") from None
    except regex.error as error:
        raise UnusablePatternError(f"the pattern {pattern[:40]!r} is not a regular expression: {error}") from None


def begins(pattern: str, module: str, end: str = "") -> bool | None:
    """Return whether a pattern, and ``end`` after it, match the beginning of a name; None if it cannot be evaluated."""
    try:
        return matches(f"(?:{pattern}){end}", module)
    except UnusablePatternError:
        return None
