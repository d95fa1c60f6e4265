"""The file of a baseline's most probable tokens, and the observers that write and read it while windows are scored.

The file has the K most probable tokens at each predicted position of a draw's final windows: one record per position,
window after window, in numpy's own format. Each model and draw has one such file in the run directory. It is
memory-mapped and never read whole.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from invarlock.checkpoints.digests import digest_file
from invarlock.documents.measurements import KeptTokens
from invarlock.errors import EvaluationError
from invarlock.measuring.fidelity import BaselineTokens, TokenScores, diverge, keep, rest_mass
from invarlock.problems import Code
from invarlock.statistics.histogram import count_in_bins

# The most probable token of the baseline counts as confident from this probability on.
CONFIDENT = 0.5
# As for losses: a divergence above this says that the subject is broken, and its exact value does not matter.
MAX_KL = 1e4
# Up to this size, the ids of a vocabulary are stored in two bytes.
SMALL_VOCABULARY = 1 << 15
# More digits than float32 resolves.
DIGITS = 9

Span = tuple[int, int]
Numbers = npt.NDArray[np.float64]


def kept_folder(checkpoint: Path) -> Path:
    """Return the folder, next to the checkpoint, for the files of a baseline whose checkpoint we made."""
    return checkpoint.with_name(f"{checkpoint.name}_kept_tokens")


def kept_file(folder: Path, run: int) -> Path:
    """Return the path of a draw's file in the folder of its model."""
    return folder / f"kept_tokens_{run}.npy"


def check_kept(path: Path, measured: Mapping[str, Any]) -> None:
    """Check that a file is the one that a baseline's report names.

    Args:
        path: the file.
        measured: ``fidelity`` of the draw in the baseline's report.

    Raises:
        EvaluationError: when the file is missing or is a different one.
    """
    if not path.is_file():
        raise EvaluationError(
            "missing; the baseline's most probable tokens are compared with: measure it again",
            code=Code.BASELINE_IMPLAUSIBLE,
            where=str(path),
        )
    if f"sha256:{digest_file(path)}" != measured["sha256"]:
        raise EvaluationError(
            "not the file that the baseline's report names; measure the baseline again",
            code=Code.BASELINE_IMPLAUSIBLE,
            where=str(path),
        )


def most_probable_tokens(path: Path) -> npt.NDArray[np.int32]:
    """Return the baseline's most probable token at each position of a draw's final windows, one after another."""
    records: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(records["ids"][..., 0], dtype=np.int32)


class _Places:
    """The positions of windows in an array that stores one window after another."""

    def __init__(self, positions: Sequence[int]) -> None:
        self.total = sum(positions)
        self._ends = list(accumulate(positions, initial=0))

    def part(self, values: Any, windows: Span, positions: Span) -> Any:
        """Return a view of some positions of some windows of equal length, shape (windows, positions)."""
        first, last = windows
        own = values[self._ends[first] : self._ends[last]].reshape(last - first, -1)
        return own[:, slice(*positions)]

    def sums(self, values: npt.NDArray[Any]) -> list[float | int]:
        """Return the sum of the values of each window, or for each window how many are true."""
        numbers = values.astype(np.int64) if values.dtype == np.bool_ else values
        totals: list[float | int] = np.add.reduceat(numbers, self._ends[:-1]).tolist()
        return totals

    def windows(self, values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the values of each window."""
        return [values[start:end] for start, end in pairwise(self._ends)]


class BaselineObserver:
    """Writes a draw's file while its final windows are scored; the complete file appears at the end, or none does.

    Example::

        with BaselineObserver(path, positions=[127] * 64, top_k=512) as observer:
            score_windows(model, tokens, 16, observer=observer)
            measured = observer.finish()
    """

    def __init__(self, path: Path, *, positions: Sequence[int], top_k: int) -> None:
        """Prepare a file.

        Args:
            path: the file.
            positions: the number of predicted tokens of each window.
            top_k: how many tokens are kept.
        """
        self._path = path
        self._places = _Places(positions)
        self._top_k = top_k
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._records: Any = None
        self._vocabulary = 0
        self._confident = np.zeros(self._places.total, dtype=bool)
        self._rest = np.zeros(self._places.total)

    def __enter__(self) -> BaselineObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._records = None
        self._partial.unlink(missing_ok=True)

    def observe(self, windows: Span, positions: Span, scores: TokenScores, following: torch.Tensor) -> None:
        """Keep the scores of part of a forward pass; a part may be repeated after the pass ran out of memory."""
        if self._records is None:
            self._vocabulary = scores.vocabulary
            self._records = self._begin(min(self._top_k, self._vocabulary))
        kept = keep(scores, following, self._records["ids"].shape[-1])
        part = self._places.part(self._records, windows, positions)
        part["ids"] = kept.ids.cpu().numpy()
        part["logprobs"] = kept.logprobs.cpu().numpy()
        part["target"] = kept.target.cpu().numpy()
        confident = self._places.part(self._confident, windows, positions)
        confident[:] = (kept.logprobs[..., 0] >= math.log(CONFIDENT)).cpu().numpy()
        self._places.part(self._rest, windows, positions)[:] = rest_mass(kept).cpu().numpy()

    def finish(self) -> KeptTokens:
        """Move the file into place, and return the facts about it for the baseline's report."""
        top_k = self._records["ids"].shape[-1]
        self._records.flush()
        self._records = None
        self._partial.replace(self._path)
        return {
            "vocabulary": self._vocabulary,
            "top_k": top_k,
            "sha256": f"sha256:{digest_file(self._path)}",
            "rest_mass": float(f"{self._rest.mean():.{DIGITS}g}"),
            "confident": [int(own.sum()) for own in self._places.windows(self._confident)],
        }

    def _begin(self, top_k: int) -> Any:
        ids = "<i2" if self._vocabulary <= SMALL_VOCABULARY else "<i4"
        # "align" pads a record with an odd number of two-byte ids: torch maps floats at multiples of four alone
        record = np.dtype([("logprobs", "<f4", (top_k,)), ("target", "<f4"), ("ids", ids, (top_k,))], align=True)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            mapped = np.lib.format.open_memmap(self._partial, mode="w+", dtype=record, shape=(self._places.total,))
            # if the disk fills up while a mapped file is written, the process dies without a message
            with self._partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._partial.stat().st_size)
        except OSError as error:
            size = record.itemsize * self._places.total / 1e6
            raise EvaluationError(
                f"{self._path}: cannot be written ({error.strerror}); the baseline's most probable tokens need "
                f"{size:.0f} MB",
                code=Code.OUTPUT_UNWRITABLE,
            ) from None
        return mapped


class SubjectObserver:
    """Compares a subject with its baseline's file while the same windows are scored."""

    def __init__(self, path: Path, vocabulary: int, positions: Sequence[int], slices: Sequence[str] = ()) -> None:
        """Open the file of a baseline.

        Args:
            path: the file.
            vocabulary: the size of the baseline's vocabulary.
            positions: the number of predicted tokens of each window.
            slices: the slice of each window; empty for a single unnamed text.
        """
        self._vocabulary = vocabulary
        self._slices = slices
        self._places = _Places(positions)
        # "c" maps the file as "r" does, but torch takes such memory without a copy; nothing is written to it
        self._records: Any = np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
        shape = self._records.shape
        self._kl = np.full(shape, math.nan)
        self._delta_p = np.zeros(shape)
        self._same = np.zeros(shape, dtype=bool)
        self._confident = np.zeros(shape, dtype=bool)
        self._uncompared: Numbers | None = None

    def observe(self, windows: Span, positions: Span, scores: TokenScores, following: torch.Tensor) -> None:
        """Compare part of a forward pass; a part may be repeated after the pass ran out of memory."""
        part = self._places.part(self._records, windows, positions)
        ids, logprobs, target = (
            torch.from_numpy(part[name]).to(following.device) for name in ("ids", "logprobs", "target")
        )
        kept = BaselineTokens(ids, logprobs, target, self._vocabulary)
        found = diverge(scores, following, kept)
        seen = [
            (self._kl, found.kl),
            (self._same, found.same_top),
            (self._delta_p, found.delta_p),
            (self._confident, kept.logprobs[..., 0] >= math.log(CONFIDENT)),
        ]
        if found.uncompared is not None:
            if self._uncompared is None:
                self._uncompared = np.zeros(self._kl.shape)
            seen.append((self._uncompared, found.uncompared))
        for values, own in seen:
            self._places.part(values, windows, positions)[:] = own.cpu().numpy()

    def finish(self) -> dict[str, Any]:
        """Return the subject's facts for the report; a window with a number that is not finite has None.

        If an engine returns only some of the tokens, ``compared`` has the baseline's mean probability of the others.
        """
        finite = np.isfinite(self._kl) & (self._kl <= MAX_KL) & np.isfinite(self._delta_p)
        whole = [not broken for broken in self._places.sums(~finite)]
        every = list(zip(self._places.windows(self._kl), whole, strict=True))
        slices = {
            name: _spread([own for own, of in zip(every, self._slices, strict=True) if of == name])
            for name in dict.fromkeys(self._slices)
        }

        def each(values: npt.NDArray[Any]) -> list[float | int | None]:
            sums = self._places.sums(values)
            return [_stored(value) if is_whole else None for value, is_whole in zip(sums, whole, strict=True)]

        return {
            "kl_sum": each(self._kl),
            **_spread(every),
            **({"slices": slices} if slices else {}),
            "same_top": each(self._same),
            "confident_same": each(self._same & self._confident),
            "delta_p_squared": each(np.square(self._delta_p)),
            **(
                {}
                if self._uncompared is None
                else {"compared": {"rest_mass": float(f"{self._uncompared.mean():.{DIGITS}g}")}}
            ),
        }


def _spread(windows: Sequence[tuple[Numbers, bool]]) -> dict[str, Any]:
    """Return the largest divergence and the histogram over the windows whose numbers are all finite."""
    values = np.concatenate([np.empty(0), *(own for own, is_whole in windows if is_whole)])
    counts = count_in_bins(values)
    used = [index for index, count in enumerate(counts) if count]
    first, last = (used[0], used[-1]) if used else (0, -1)
    return {
        "kl_max": _stored(float(values.max())) if values.size else None,
        "histogram": {"first": first, "counts": counts[first : last + 1]},
    }


def _stored(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
