"""The known name that is most like one that is not known, for messages about names with a slip in them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# difflib's similarity from 0 to 1; lower values suggest names that share little more than a prefix
CUTOFF = 0.7


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a name, None when no name is like it."""
    by_folded = {one.casefold(): one for one in known}
    found = get_close_matches(name.casefold(), by_folded, n=1, cutoff=CUTOFF)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean NAME?)``, or an empty text when no known name is like the name."""
    found = nearest(name, known)
    return "" if found is None else f" (did you mean {found}?)"
