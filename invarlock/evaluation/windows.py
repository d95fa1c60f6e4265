"""Windows of text: non-overlapping, distinct, drawn by a seeded permutation.

If a tokenizer begins every text with its own tokens (BOS), every window begins with them too: a window of ``seq_len``
tokens then has ``seq_len - len(prefix)`` tokens of text, and the first of these is predicted from the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from invarlock.digests import short_digest
from invarlock.errors import EvaluationError
from invarlock.problems import Code

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """Windows of one kind: ids, and token ids in blocks of shape (windows, seq_len), the prefix included.

    All windows of a block have the same length, and no block is empty; the lengths of slices may differ. ``slices`` has
    the slice name of each window; it is empty for a single unnamed text.
    """

    ids: tuple[str, ...]
    blocks: tuple[Tokens, ...]
    slices: tuple[str, ...] = ()

    @property
    def tokens(self) -> Tokens:
        """Return the windows of the first length; these are all windows unless slices have different lengths."""
        return self.blocks[0]

    @property
    def first_slice(self) -> Tokens:
        """Return the windows of the first slice; for a single text these are all windows."""
        return self.blocks[0][: self.slices.count(self.slices[0])] if self.slices else self.blocks[0]

    @property
    def positions(self) -> list[int]:
        """Return the number of predicted tokens of each window."""
        return [block.shape[1] - 1 for block in self.blocks for _ in range(len(block))]

    def rows(self) -> list[list[int]]:
        """Return the token ids of each window."""
        return [row for block in self.blocks for row in block.tolist()]


@dataclass(frozen=True)
class Draw:
    """One draw of windows: preview and final windows, disjoint; each window begins with ``prefix``."""

    seed: int
    preview: Windows
    final: Windows
    prefix: tuple[int, ...] = ()


def window_id(tokens: Tokens) -> str:
    """Return the first 16 hex digits of sha256 over the window's little-endian int32 token ids."""
    return short_digest(np.ascontiguousarray(tokens, dtype="<i4").tobytes())


def added_before(whole: Sequence[int], plain: Sequence[int]) -> tuple[int, ...] | None:
    """Return the tokens that an encoding has before the text's own; None if it does not contain those unchanged."""
    for start in range(len(whole) - len(plain) + 1):
        if list(whole[start : start + len(plain)]) == list(plain):
            return tuple(whole[:start])
    return None


def draw_windows(  # noqa: PLR0913 - a draw follows from all of them
    token_ids: Sequence[int],
    seq_len: int,
    preview: int,
    final: int,
    seed: int,
    prefix: Sequence[int] = (),
    *,
    usable: Callable[[Sequence[int]], bool] | None = None,
) -> Draw:
    """Return ``preview`` and then ``final`` windows of ``seq_len`` tokens, drawn by a seeded permutation.

    Windows with the same tokens count once. The permutation sorts the raw stream of PCG64, so it is the same with every
    numpy version.

    Args:
        token_ids: the token ids of the text, without special tokens.
        seq_len: tokens per window, including the prefix: the length of the model's input.
        preview: the number of preview windows.
        final: the number of final windows.
        seed: the seed of the permutation.
        prefix: token ids at the start of every window.
        usable: returns whether a window may be drawn; None accepts every window.

    Raises:
        EvaluationError: when a window has no room for text, or the text has too few distinct windows; the message has
            both counts.
    """
    width = seq_len - len(prefix)
    if width < 1 or seq_len < 2:
        raise EvaluationError(
            f"a window of {seq_len} tokens has no room for text behind the {len(prefix)} tokens that the tokenizer "
            "begins a text with; use a longer seq_len",
            code=Code.TEXT_UNUSABLE,
        )
    whole = len(token_ids) // width
    text = np.asarray(token_ids[: whole * width], dtype=np.int32).reshape(whole, width)
    windows = np.hstack([np.tile(np.asarray(prefix, dtype=np.int32), (whole, 1)), text]) if prefix else text
    distinct: dict[str, int] = {}
    for index in range(whole):
        if usable is None or usable(windows[index].tolist()):
            distinct.setdefault(window_id(windows[index]), index)
    if len(distinct) < preview + final:
        kind = "" if usable is None else " that the tokenizer reads back"
        raise EvaluationError(
            f"the text has {len(distinct)} distinct window{'' if len(distinct) == 1 else 's'}{kind} of {width} tokens, "
            f"{preview} + {final} are needed; "
            "use a longer text, fewer windows or a shorter seq_len",
            code=Code.TEXT_UNUSABLE,
        )
    names = list(distinct)
    keys = np.random.PCG64(seed).random_raw(len(names))
    order = [names[index] for index in np.argsort(keys, kind="stable")]

    def take(chosen: list[str]) -> Windows:
        return Windows(tuple(chosen), (windows[[distinct[name] for name in chosen]],) if chosen else ())

    return Draw(seed, take(order[:preview]), take(order[preview : preview + final]), tuple(prefix))


def join_draws(draws: Mapping[str, Draw]) -> Draw:
    """Return one draw of the windows of several slices, in the order of the slices; each window names its slice.

    Raises:
        EvaluationError: when two slices share a window.
    """
    seen: dict[str, str] = {}
    for name, draw in draws.items():
        for window in (*draw.preview.ids, *draw.final.ids):
            if seen.setdefault(window, name) != name:
                raise EvaluationError(
                    f"the slices {seen[window]!r} and {name!r} share windows; give different texts",
                    code=Code.TEXT_UNUSABLE,
                )
    first = next(iter(draws.values()))

    def joined(part: str) -> Windows:
        parts: dict[str, Windows] = {name: getattr(draw, part) for name, draw in draws.items()}
        return Windows(
            tuple(window for own in parts.values() for window in own.ids),
            _by_length([block for own in parts.values() for block in own.blocks]),
            tuple(name for name, own in parts.items() for _ in own.ids),
        )

    return Draw(first.seed, joined("preview"), joined("final"), first.prefix)


def _by_length(blocks: Sequence[Tokens]) -> tuple[Tokens, ...]:
    """Return blocks, with neighbouring blocks of equal length joined."""
    groups = groupby(blocks, key=lambda block: block.shape[1])
    return tuple(np.concatenate(list(group)) for _, group in groups)
