"""The file of a baseline's most probable tokens, and the observers of a scoring pass that write it and read it.

The file has the K most probable tokens of each predicted position of a draw's final windows: numpy's own format, one
record a position. It lies in the run directory, one for each model and draw, and is mapped, never read whole.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping, Sequence
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

# A baseline's probability from which its most probable token counts as confident.
CONFIDENT = 0.5
# As for losses: beyond this a divergence says that the subject is broken, not by how much.
MAX_KL = 1e4
# More than float32 resolves.
DIGITS = 9

Span = tuple[int, int]
Numbers = npt.NDArray[np.float64]


def kept_folder(checkpoint: Path) -> Path:
    """Return the folder for the files of a baseline whose checkpoint is ours: next to that."""
    return checkpoint.with_name(f"{checkpoint.name}_kept_tokens")


def kept_file(folder: Path, run: int) -> Path:
    """Return where the file of a draw lies in the folder of its model."""
    return folder / f"kept_tokens_{run}.npy"


def check_kept(path: Path, measured: Mapping[str, Any]) -> None:
    """Check that a file is the one that a baseline's report names.

    Args:
        path: the file.
        measured: ``fidelity`` of the draw in the baseline's report.

    Raises:
        EvaluationError: when it is missing, or another.
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
    """Return the baseline's most probable token at each position of a draw's final windows, (windows, positions)."""
    records: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(records["ids"][..., 0])


class BaselineObserver:
    """Writes the file of a draw while its final windows are scored; it appears whole at the end, or not at all.

    Example::

        with BaselineObserver(path, windows=64, positions=127, top_k=512) as observer:
            score_windows(model, tokens, 16, observer=observer)
            measured = observer.finish()
    """

    def __init__(self, path: Path, *, windows: int, positions: int, top_k: int) -> None:
        self._path = path
        self._shape = (windows, positions)
        self._top_k = top_k
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._records: Any = None
        self._vocabulary = 0
        self._confident = np.zeros(self._shape, dtype=bool)
        self._rest = np.zeros(self._shape)

    def __enter__(self) -> BaselineObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._records = None
        self._partial.unlink(missing_ok=True)

    def observe(self, windows: Span, positions: Span, scores: TokenScores, targets: torch.Tensor) -> None:
        """Keep what a part of a forward pass says; the same part may come again after it ran out of memory."""
        if self._records is None:
            self._vocabulary = scores.vocabulary
            self._records = self._begin(min(self._top_k, self._vocabulary))
        kept = keep(scores, targets, self._records["ids"].shape[-1])
        place = slice(*windows), slice(*positions)
        part = self._records[place]
        part["ids"] = kept.ids.cpu().numpy()
        part["logprobs"] = kept.logprobs.cpu().numpy()
        part["target"] = kept.target.cpu().numpy()
        self._confident[place] = (kept.logprobs[..., 0] >= math.log(CONFIDENT)).cpu().numpy()
        self._rest[place] = rest_mass(kept).cpu().numpy()

    def finish(self) -> KeptTokens:
        """Put the file in its place, and return what the baseline's report says of it."""
        top_k = self._records["ids"].shape[-1]
        self._records.flush()
        self._records = None
        self._partial.replace(self._path)
        return {
            "vocabulary": self._vocabulary,
            "top_k": top_k,
            "sha256": f"sha256:{digest_file(self._path)}",
            "rest_mass": float(f"{self._rest.mean():.{DIGITS}g}"),
            "confident": [int(count) for count in self._confident.sum(axis=1)],
        }

    def _begin(self, top_k: int) -> Any:
        record = np.dtype([("ids", "<i4", (top_k,)), ("logprobs", "<f4", (top_k,)), ("target", "<f4")])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            mapped = np.lib.format.open_memmap(self._partial, mode="w+", dtype=record, shape=self._shape)
            # a mapped file that finds no room while it is written ends the process without a word
            with self._partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._partial.stat().st_size)
        except OSError as error:
            size = record.itemsize * math.prod(self._shape) / 1e6
            raise EvaluationError(
                f"{self._path}: cannot be written ({error.strerror}); the baseline's most probable tokens need "
                f"{size:.0f} MB",
                code=Code.OUTPUT_UNWRITABLE,
            ) from None
        return mapped


class SubjectObserver:
    """Compares a subject with the file of its baseline while the same windows are scored."""

    def __init__(self, path: Path, slices: Sequence[str] = ()) -> None:
        """Open the file of a baseline.

        Args:
            path: the file.
            slices: the slice of each window; empty for one text without a name.
        """
        self._slices = np.asarray(slices)
        self._records: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        shape = self._records.shape
        self._kl = np.full(shape, math.nan)
        self._delta_p = np.zeros(shape)
        self._same = np.zeros(shape, dtype=bool)
        self._confident = np.zeros(shape, dtype=bool)
        self._uncompared: Numbers | None = None

    def observe(self, windows: Span, positions: Span, scores: TokenScores, targets: torch.Tensor) -> None:
        """Compare what a part of a forward pass says; the same part may come again after it ran out of memory."""
        place = slice(*windows), slice(*positions)
        part = self._records[place]
        kept = BaselineTokens(
            *(
                torch.from_numpy(np.ascontiguousarray(part[name])).to(targets.device)
                for name in ("ids", "logprobs", "target")
            )
        )
        found = diverge(scores, targets, BaselineTokens(kept.ids.long(), kept.logprobs, kept.target))
        self._kl[place] = found.kl.cpu().numpy()
        self._same[place] = found.same_top.cpu().numpy()
        self._delta_p[place] = found.delta_p.cpu().numpy()
        if found.uncompared is not None:
            if self._uncompared is None:
                self._uncompared = np.zeros(self._kl.shape)
            self._uncompared[place] = found.uncompared.cpu().numpy()
        self._confident[place] = (kept.logprobs[..., 0] >= math.log(CONFIDENT)).cpu().numpy()

    def finish(self) -> dict[str, Any]:
        """Return what a report says of the subject; a window in which a number is not finite has None.

        Where an engine gives a part of the tokens, ``compared`` has the baseline's mean probability of the others.
        """
        whole = (np.isfinite(self._kl) & (self._kl <= MAX_KL) & np.isfinite(self._delta_p)).all(axis=1)
        slices = {
            str(name): _spread(self._kl[whole & (self._slices == name)])
            for name in dict.fromkeys(self._slices.tolist())
        }
        return {
            "kl_sum": _each(whole, self._kl.sum(axis=1)),
            **_spread(self._kl[whole]),
            **({"slices": slices} if slices else {}),
            "same_top": _each(whole, self._same.sum(axis=1)),
            "confident_same": _each(whole, (self._same & self._confident).sum(axis=1)),
            "delta_p_squared": _each(whole, np.square(self._delta_p).sum(axis=1)),
            **(
                {}
                if self._uncompared is None
                else {"compared": {"rest_mass": float(f"{self._uncompared.mean():.{DIGITS}g}")}}
            ),
        }


def _spread(values: Numbers) -> dict[str, Any]:
    """Return the largest divergence of some windows, and the histogram of all."""
    counts = count_in_bins(values)
    used = [index for index, count in enumerate(counts) if count]
    first, last = (used[0], used[-1]) if used else (0, -1)
    return {
        "kl_max": _stored(float(values.max())) if values.size else None,
        "histogram": {"first": first, "counts": counts[first : last + 1]},
    }


def _each(whole: Any, values: npt.NDArray[Any]) -> list[float | int | None]:
    return [_stored(value) if is_whole else None for is_whole, value in zip(whole, values.tolist(), strict=True)]


def _stored(value: float | int) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
