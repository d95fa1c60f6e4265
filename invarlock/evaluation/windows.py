"""Windows of text: non-overlapping, distinct, drawn by a seeded permutation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from invarlock.errors import EvaluationError

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """Windows of one kind: ids, and token ids of shape (windows, seq_len)."""

    ids: tuple[str, ...]
    tokens: Tokens


@dataclass(frozen=True)
class Draw:
    """One draw of windows: preview and final, disjoint."""

    seed: int
    preview: Windows
    final: Windows


def window_id(tokens: Tokens) -> str:
    """Return the first 16 hex digits of sha256 over the window's little-endian int32 token ids."""
    return hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i4").tobytes()).hexdigest()[:16]


def draw_windows(token_ids: Sequence[int], seq_len: int, preview: int, final: int, seed: int) -> Draw:
    """Return ``preview`` and then ``final`` windows of ``seq_len`` tokens, drawn by a seeded permutation.

    Windows of the same tokens count once. The permutation sorts the raw stream of PCG64 and is the same with every
    numpy.

    Raises:
        EvaluationError: when the text has fewer distinct windows than asked for, naming both counts.
    """
    whole = len(token_ids) // seq_len
    windows = np.asarray(token_ids[: whole * seq_len], dtype=np.int32).reshape(whole, seq_len)
    distinct: dict[str, int] = {}
    for index in range(whole):
        distinct.setdefault(window_id(windows[index]), index)
    if len(distinct) < preview + final:
        raise EvaluationError(
            f"the text has {len(distinct)} distinct windows of {seq_len} tokens, {preview} + {final} are needed; "
            "use a longer text, fewer windows or a shorter seq_len"
        )
    names = list(distinct)
    keys = np.random.PCG64(seed).random_raw(len(names))
    order = [names[index] for index in np.argsort(keys, kind="stable")]

    def take(chosen: list[str]) -> Windows:
        return Windows(tuple(chosen), windows[[distinct[name] for name in chosen]])

    return Draw(seed, take(order[:preview]), take(order[preview : preview + final]))
