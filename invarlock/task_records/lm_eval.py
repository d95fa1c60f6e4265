"""Reading samples of lm-evaluation-harness: ``lm_eval --log_samples`` writes one JSONL file per task.

A line has ``doc_id``, ``target``, ``arguments`` (the prompt, and the request to the model), ``filter``, ``metrics``,
and a field for each metric. Only the file's name contains the name of the task. Source: lm_eval 0.4
(``lm_eval/loggers/evaluation_tracker.py``, ``lm_eval/evaluator.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from invarlock.errors import DocumentError
from invarlock.jsonio import read_file
from invarlock.task_records.record import (
    MAX_FILE_BYTES,
    ChosenMetric,
    Record,
    TaskRecords,
    bounded_score,
    parse_loosely,
    table,
    text_digest,
)

_NAME = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d\d-\d\dT[0-9.:-]+)?\.jsonl")
# Before lm_eval 0.4.5, a line has no list of metrics; every field except these is a metric.
_NO_METRICS = frozenset(
    {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash"}
    | {"target_hash"}
)


def is_samples(path: Path) -> bool:
    """Return whether a file's name is that of a file of samples."""
    return _NAME.fullmatch(path.name) is not None


def read_samples(path: Path, chosen: ChosenMetric) -> TaskRecords:
    """Return the results of a file of samples.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when the file is malformed, has another kind of name, or lacks the metric.
    """
    name = _NAME.fullmatch(path.name)
    if name is None:
        raise DocumentError("not named samples_TASK_TIME.jsonl, as lm_eval writes it; keep its name", where=str(path))
    rows = list(_rows(path))
    if not rows:
        raise DocumentError("it has no sample; run lm_eval with --log_samples", where=str(path))
    filters = sorted({str(row.get("filter", "none")) for _, row in rows})
    first = str(rows[0][1].get("filter", "none"))
    wanted = chosen.filtered or first
    if wanted not in filters:
        raise DocumentError(f"no filter {wanted!r}; it has {', '.join(filters)}", where=str(path))
    kept = [(where, row) for where, row in rows if str(row.get("filter", "none")) == wanted]
    metrics = _metrics(kept[0][1])
    metric = chosen.name or next(iter(metrics), None)
    if metric not in metrics:
        raise DocumentError(f"no metric {metric!r}; it has {', '.join(metrics) or 'none'}", where=str(path))
    records = tuple(_record(where, row, metric) for where, row in kept)
    return TaskRecords(name["task"], metric if wanted == "none" else f"{metric},{wanted}", records)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(read_file(path, limit_bytes=MAX_FILE_BYTES).splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, table(parse_loosely(line, where), where)


def _metrics(row: Mapping[str, Any]) -> list[str]:
    stated = row.get("metrics")
    if isinstance(stated, list):
        return [name for name in stated if isinstance(name, str) and name in row]
    return [name for name, value in row.items() if name not in _NO_METRICS and isinstance(value, int | float)]


def _record(where: str, row: Mapping[str, Any], metric: str) -> Record:
    missing = [name for name in ("doc_id", "target", "arguments", metric) if name not in row]
    if missing:
        raise DocumentError(f"no {missing[0]!r}; run lm_eval with --log_samples", where=where)
    return Record(
        sample=str(row["doc_id"]),
        target=text_digest(str(row["target"])),
        prompt=text_digest(_plain(row["arguments"])),
        score=bounded_score(row[metric], where),
    )


def _plain(arguments: Any) -> Any:
    """Return the model's input as lists without names, since versions name its parts differently."""
    if isinstance(arguments, dict) and all(re.fullmatch(r"(gen_args_|arg_)\d+", str(key)) for key in arguments):
        return [_plain(arguments[key]) for key in sorted(arguments, key=lambda key: int(key.rsplit("_", 1)[1]))]
    if isinstance(arguments, list):
        return [_plain(value) for value in arguments]
    return arguments
