"""The known name most similar to an unknown one, for messages about misspelt names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# difflib's similarity from 0 to 1; with lower values names that share little more than a prefix would match
CUTOFF = 0.7


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to a name, or None if none is similar."""
    by_folded = {one.casefold(): one for one in known}
    found = get_close_matches(name.casefold(), by_folded, n=1, cutoff=CUTOFF)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean NAME?)``, or an empty string if no known name is similar."""
    found = nearest(name, known)
    return "" if found is None else f" (did you mean {found}?)"
