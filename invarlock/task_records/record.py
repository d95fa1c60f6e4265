"""The common form of a result: the digest of the input, and the score of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.digests import short_digest
from invarlock.errors import DocumentError

# The largest file of results that is read.
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Record:
    """The result of one sample of a task.

    Attributes:
        sample: the id that the tool gives the sample.
        target: digest of the right answer.
        prompt: digest of all that the model was given.
        score: from 0, the worst, to 1, the best.
    """

    sample: str
    target: str
    prompt: str
    score: float


@dataclass(frozen=True)
class TaskRecords:
    """The results of one task on one side; ``metric`` is what gave the scores."""

    task: str
    metric: str
    records: Sequence[Record]


@dataclass(frozen=True)
class ChosenMetric:
    """The metric that is read where a task has several; ``filtered`` is lm-evaluation-harness's filter of answers."""

    name: str | None = None
    filtered: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> ChosenMetric:
        """Return the metric of ``NAME`` or ``NAME,FILTER``; of None the first that a task has."""
        name, _, filtered = (text or "").partition(",")
        return cls(name or None, filtered or None)


def text_digest(value: Any) -> str:
    """Return the first 16 hex digits of the sha256 of a value as JSON."""
    return short_digest(json.dumps(value, sort_keys=True, ensure_ascii=True).encode())


def bounded_score(value: Any, where: str) -> float:
    """Return a score between 0 and 1.

    Raises:
        DocumentError: when it is something else, so that a mean over tasks would say nothing.
    """
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    raise DocumentError(
        f"a score is {str(value)[:40]}, not from 0 to 1; choose a metric with --metric NAME", where=where
    )


def parse_loosely(data: bytes, where: str) -> Any:
    """Return a JSON document of another tool, which may hold NaN and infinite numbers.

    Raises:
        DocumentError: when it is no JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"no JSON ({str(error)[:100]}); write the file again", where=where) from None


def table(value: Any, where: str) -> Mapping[str, Any]:
    """Return a value that must be a JSON object.

    Raises:
        DocumentError: when it is something else.
    """
    if not isinstance(value, dict):
        raise DocumentError(f"{str(value)[:40]} where a table is needed; name a file of the tool itself", where=where)
    return value
