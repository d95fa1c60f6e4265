"""The differences between two JSON documents, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# The keys and indices that lead to a value.
Path = tuple[str | int, ...]


def leaf_differences(one: Any, other: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Yield the path and both values of each difference between two documents; an absent key has the value None.

    Lists of different lengths differ as a whole. Documents without a difference have the same bytes when written, and
    therefore the same digest: 1 differs from 1.0, 0.0 from -0.0, and an absent key from null.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            inner = (*path, key)
            if key in one and key in other:
                yield from leaf_differences(one[key], other[key], inner)
            else:
                yield inner, one.get(key), other.get(key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from leaf_differences(first, second, (*path, index))
    elif type(one) is not type(other) or one != other or (not one and repr(one) != repr(other)):
        yield path, one, other
