"""The differences between two JSON documents, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# The keys and indices that lead to a value.
Path = tuple[str | int, ...]


def leaf_differences(one: Any, other: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Yield the path and both values of each difference between two documents; an absent key has the value None.

    Lists of different lengths differ as a whole.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from leaf_differences(one.get(key), other.get(key), (*path, key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from leaf_differences(first, second, (*path, index))
    elif one != other:
        yield path, one, other
