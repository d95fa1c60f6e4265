"""Ladders of candidates from mild to strong, and the search for the strongest candidate that passes.

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
    """Search for the last rung of a ladder that holds; return it, or None if no rung holds.

    Yields the rung to judge now; the caller sends back whether it holds. With the mildest rung it also yields the rung
    that is judged next if that one holds, so that both candidates can be made at once.

    The search climbs to the first rung that holds and continues by bisection, which assumes that every rung that holds
    is weaker than every rung that does not. The first rung that holds need not be the lowest: a mild low-rank edit
    removes few directions, which looks like a defect.
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
        EditError: when the scope selects no tensors, or the edit has no parameters.
    """
    files = check_dense(folder)
    taken = tensors_in_scope(files.model_type, files.shapes, scope, where=folder.name)
    rungs = BY_NAME[edit].ladder
    if rungs is None:
        raise EditError(f"{edit}: it has no parameters to tune")
    smallest_side = min(min(files.shapes[name][-2:]) for name in taken)
    return [make_edit_spec(edit, row, scope, "tuner") for row in rungs(smallest_side)]
