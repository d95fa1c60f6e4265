"""Ladders of candidates from mild to strong, and the search for the last rung that holds.

Example::

    >>> search = climb(12)
    >>> next(search)        # judge rung 0; rung 6 is judged next if it holds
    (0, 6)
    >>> search.send(True)
    (6,)
    >>> search.send(False)  # and so on; the last rung that holds is the generator's return value
    (3,)
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from invarlock.catalog.edit_specs import EditSpec, Scope, make_edit_spec
from invarlock.checkpoints.families import tensors_in_scope
from invarlock.checkpoints.storage_format import check_dense
from invarlock.edits import BY_NAME
from invarlock.errors import EditError


def climb(count: int) -> Generator[tuple[int, ...], bool, int | None]:
    """Search the last rung of a ladder that holds; return it, or None when no rung holds.

    Yields the rung to judge now, and is sent whether it holds. With the mildest rung it also yields the one that is
    judged next if that holds, so that both can be made at once.

    The ladder is climbed to the first rung that holds, from there on by bisection: a rung that holds is taken to be
    weaker than any that does not. The first need not be the lowest: what a mild low-rank edit takes away lies along
    few directions, as a defect does.
    """
    low = 0
    while low < count:
        middle = (low + count) // 2
        if (yield (low, middle) if low == 0 and middle > low else (low,)):
            break
        low += 1
    else:
        return None
    high = count
    while high - low > 1:
        middle = (low + high) // 2
        if (yield (middle,)):
            low = middle
        else:
            high = middle
    return low


def ladder(folder: Path, edit: str, scope: Scope) -> list[EditSpec]:
    """Return the candidates of an edit, from mild to strong.

    Raises:
        EditError: when the scope takes nothing, or the edit has no parameters.
    """
    files = check_dense(folder)
    taken = tensors_in_scope(files.model_type, files.shapes, scope, where=folder.name)
    rungs = BY_NAME[edit].ladder
    if rungs is None:
        raise EditError(f"{edit}: it has no parameters to tune")
    smallest_side = min(min(files.shapes[name][-2:]) for name in taken)
    return [make_edit_spec(edit, row, scope, "tuner") for row in rungs(smallest_side)]
