"""Reading the result files of evaluation tools, and pairing them in one document.

Example::

    document = import_records([Path("base/")], [Path("quantised/")])     # task_records.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from invarlock.digests import digest_bytes
from invarlock.documents.reports import ResultFile, TaskRecordsDocument
from invarlock.errors import DocumentError, MissingFileError
from invarlock.jsonio import check_schema, read_file, read_json
from invarlock.metrics.tasks import SIDES, record_problems
from invarlock.task_records.inspect_logs import SUFFIXES, read_log
from invarlock.task_records.lm_eval import is_samples, read_samples
from invarlock.task_records.pairing import paired_records
from invarlock.task_records.record import MAX_FILE_BYTES, ChosenMetric, TaskRecords

# The file is in the folder of a subject, like its edit_metadata.json.
RECORDS_NAME = "task_records.json"
LM_EVAL, INSPECT = "lm-evaluation-harness", "inspect-ai"


def import_records(
    baseline: Sequence[Path], subject: Sequence[Path], chosen: ChosenMetric | None = None
) -> TaskRecordsDocument:
    """Return the results of both sides on the same samples; ``contracts/task_records.schema.json`` is their schema.

    Args:
        baseline: the baseline's result files, or folders of them.
        subject: the subject's result files, or folders of them.
        chosen: the metric to read, by default the first of each task.

    Raises:
        MissingFileError: when a file does not exist.
        DocumentError: when a file is malformed, the files come from different tools, or the sides do not pair.
        UsageError: when a required library is not installed.
    """
    files = {side: _files(paths) for side, paths in zip(SIDES, (baseline, subject), strict=True)}
    tools = {_tool(path): path for paths in files.values() for path in paths}
    if len(tools) > 1:
        first, second = sorted(tools.items())
        raise DocumentError(
            f"of {second[0]}, and {first[1]} of {first[0]}; import each by itself", where=str(second[1])
        )
    (tool,) = tools
    sides = {side: [_read(path, chosen or ChosenMetric()) for path in paths] for side, paths in files.items()}
    sources: dict[str, list[ResultFile]] = {
        side: [
            {"name": path.name, "sha256": digest_bytes(read_file(path, limit_bytes=MAX_FILE_BYTES))} for path in paths
        ]
        for side, paths in files.items()
    }
    document = paired_records(tool, sides, sources)
    check_schema(document, "task_records", where="the records")
    return document


def read_records(path: Path) -> TaskRecordsDocument:
    """Return the records in a file that ``invarlock records import`` wrote.

    Raises:
        MissingFileError: if the file does not exist.
        DocumentError: if the file is malformed or contradicts itself.
    """
    document: TaskRecordsDocument = read_json(path)
    check_schema(document, "task_records", where=str(path))
    problem = next(record_problems(document), None)
    if problem is not None:
        raise DocumentError(problem.message, where=str(path), field=problem.field)
    return document


def find_task_records(subject: Path) -> TaskRecordsDocument | None:
    """Return the records in a subject's folder, or None if it has none.

    Raises:
        DocumentError: as ``read_records``.
    """
    path = subject / RECORDS_NAME
    return read_records(path) if path.is_file() else None


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return the result files at the given paths; files in folders are ordered by name."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file() and _is_result(one))
            if not inside:
                raise MissingFileError(
                    "no samples_*.jsonl of lm_eval and no .eval log in the folder; name one that has them",
                    where=str(path),
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise MissingFileError("no such file; name a file of results, or a folder of them", where=str(path))
    return list(dict.fromkeys(found))


def _is_result(path: Path) -> bool:
    # a folder written by lm_eval also has a results_*.json
    return is_samples(path) or path.suffix == ".eval"


def _tool(path: Path) -> str:
    if path.suffix in SUFFIXES:
        return INSPECT
    if path.suffix == ".jsonl":
        return LM_EVAL
    raise DocumentError(
        "neither samples of lm_eval (samples_TASK_TIME.jsonl) nor a log of Inspect AI (.eval, .json)", where=str(path)
    )


def _read(path: Path, chosen: ChosenMetric) -> TaskRecords:
    return read_log(path, chosen) if _tool(path) == INSPECT else read_samples(path, chosen)
