"""The common form of a result: the digests of the input and the target, and the score of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.digests import short_digest
from invarlock.errors import DocumentError

# Larger files of results are not read.
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Record:
    """The result of one sample of a task.

    Attributes:
        sample: the tool's id of the sample.
        target: the digest of the right answer.
        prompt: the digest of the model's whole input.
        score: the score, from 0 (worst) to 1 (best).
    """

    sample: str
    target: str
    prompt: str
    score: float


@dataclass(frozen=True)
class TaskRecords:
    """The results of one task on one side; ``metric`` is the metric of the scores."""

    task: str
    metric: str
    records: Sequence[Record]


@dataclass(frozen=True)
class ChosenMetric:
    """The metric to read if a task has several; ``filtered`` is lm-evaluation-harness's filter for answers."""

    name: str | None = None
    filtered: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> ChosenMetric:
        """Parse ``NAME`` or ``NAME,FILTER``; None selects the first metric of a task."""
        name, _, filtered = (text or "").partition(",")
        return cls(name or None, filtered or None)


def text_digest(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of a value as JSON."""
    return short_digest(json.dumps(value, sort_keys=True, ensure_ascii=True).encode())


def bounded_score(value: Any, where: str) -> float:
    """Return a score between 0 and 1.

    Raises:
        DocumentError: when the value is something else, since a mean over tasks would then be meaningless.
    """
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    raise DocumentError(
        f"a score is {str(value)[:40]}, not from 0 to 1; choose a metric with --metric NAME", where=where
    )


def parse_loosely(data: bytes, where: str) -> Any:
    """Return a JSON document written by another tool, which may contain NaN and infinite numbers.

    Raises:
        DocumentError: when the data is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"no JSON ({str(error)[:100]}); write the file again", where=where) from None


def table(value: Any, where: str) -> Mapping[str, Any]:
    """Return a value that must be a JSON object.

    Raises:
        DocumentError: when the value is something else.
    """
    if not isinstance(value, dict):
        raise DocumentError(f"{str(value)[:40]} where a table is needed; name a file of the tool itself", where=where)
    return value
