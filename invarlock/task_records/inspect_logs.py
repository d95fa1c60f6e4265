"""Reading logs of Inspect AI: ``.json``, one document, and ``.eval``, an archive with one document per sample.

Newer archives are compressed with Zstandard. Python's ``zipfile`` supports it only from 3.14 on, so pyarrow (extra
``parquet``) decompresses them. Source: inspect_ai 0.3 (``log/_log.py``, ``log/_recorders/eval.py``,
``scorer/_metric.py``).
"""

from __future__ import annotations

import importlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from invarlock.errors import DocumentError, MissingFileError, UsageError
from invarlock.jsonio import read_file
from invarlock.problems import Code
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

SUFFIXES = (".json", ".eval")
# The limit for a sample with its transcript; the sizes that an archive states are not trusted.
MAX_ENTRY_BYTES = 256 * 1024 * 1024
_ZSTANDARD = 93  # the number that the ZIP format gives it
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# The same values as in inspect_ai's ``value_to_float``.
_GRADES: Mapping[str, float] = {
    "C": 1.0,
    "P": 0.5,
    "I": 0.0,
    "N": 0.0,
    "yes": 1.0,
    "true": 1.0,
    "no": 0.0,
    "false": 0.0,
}
# The exceptions of zipfile, zlib and pyarrow for an archive that is broken, encrypted or compressed in another way.
_BROKEN = (
    zipfile.BadZipFile, OSError, EOFError, struct.error, zlib.error, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip
_ATTACHMENT = "attachment://"


def read_log(path: Path, chosen: ChosenMetric) -> TaskRecords:
    """Return the results of a log.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when the log is malformed, its run did not finish, or it lacks the score.
        UsageError: when pyarrow is needed but not installed.
    """
    if path.suffix == ".eval":
        header, samples = _read_archive(path)
    else:
        header = table(parse_loosely(read_file(path, limit_bytes=MAX_FILE_BYTES), str(path)), str(path))
        listed = header.get("samples")
        samples = listed if isinstance(listed, list) else []
    where = str(path)
    if header.get("status") != "success":
        raise DocumentError(f"its status is {str(header.get('status'))[:40]!r}, not success; run it again", where=where)
    if not samples:
        raise DocumentError("it has no sample; write the log with its samples", where=where)
    rows = [table(sample, f"{where}, sample {number}") for number, sample in enumerate(samples, 1)]
    score = chosen.name or _first_score(header, rows[0])
    several = any(row.get("epoch", 1) != 1 for row in rows)
    records = tuple(_record(row, score, several, where) for row in rows)
    return TaskRecords(str(table(header.get("eval"), where).get("task")), score, records)


def _first_score(header: Mapping[str, Any], sample: Mapping[str, Any]) -> str:
    """Return the name of a log's main score: its headline score, or the first score of a sample."""
    results = header.get("results")
    headline = results.get("headline") if isinstance(results, dict) else None
    if isinstance(headline, dict) and isinstance(headline.get("score"), str):
        return str(headline["score"])
    scores = sample.get("scores")
    return next(iter(scores), "") if isinstance(scores, dict) else ""


def _record(sample: Mapping[str, Any], score: str, several_epochs: bool, path: str) -> Record:
    name = str(sample.get("id"))
    if several_epochs:
        name = f"{name} epoch {sample.get('epoch', 1)}"
    where = f"{path}, sample {name[:60]}"
    scores = sample.get("scores")
    if not isinstance(scores, dict) or score not in scores:
        known = ", ".join(map(str, scores)) if isinstance(scores, dict) and scores else "none"
        raise DocumentError(f"no score {score!r}; it has {known}", where=where)
    value = table(scores[score], where).get("value")
    if isinstance(value, str):
        value = _GRADES.get(value, _GRADES.get(value.lower(), value))
    return Record(
        sample=name,
        target=text_digest(sample.get("target")),
        prompt=text_digest([_prompt(sample), sample.get("choices")]),
        score=bounded_score(value, where),
    )


def _prompt(sample: Mapping[str, Any]) -> Any:
    """Return the input of a sample: a text, or messages without their ids, which differ between runs."""
    given = sample.get("input")
    if isinstance(given, list):
        return [
            {key: _resolved(message[key], sample) for key in ("role", "content") if key in message}
            for message in given
            if isinstance(message, dict)
        ]
    return _resolved(given, sample)


def _resolved(value: Any, sample: Mapping[str, Any]) -> Any:
    """Return a value; a long text, which a log stores separately and refers to, is looked up."""
    attachments = sample.get("attachments")
    if isinstance(value, str) and value.startswith(_ATTACHMENT) and isinstance(attachments, dict):
        return attachments.get(value.removeprefix(_ATTACHMENT), value)
    return value


def _read_archive(path: Path) -> tuple[Mapping[str, Any], list[Any]]:
    if not path.is_file():
        raise MissingFileError("no such file", where=str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "header.json" not in names:
                raise DocumentError("it has no header, its run did not end; run it again", where=str(path))
            header = table(parse_loosely(_entry(archive, "header.json", path), str(path)), str(path))
            samples = [
                parse_loosely(data, f"{path}, {name}")
                for name, data in _entries(archive, [name for name in archive.namelist() if _is_sample(name)], path)
            ]
    except _BROKEN as error:
        raise DocumentError(f"no archive of Inspect AI ({str(error)[:100]}); fetch it again", where=str(path)) from None
    return header, samples


def _is_sample(name: str) -> bool:
    return name.startswith("samples/") and name.endswith(".json")


def _entries(archive: zipfile.ZipFile, names: list[str], path: Path) -> Iterator[tuple[str, bytes]]:
    for name in sorted(names):
        yield name, _entry(archive, name, path)


def _entry(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Return the bytes of a file in an archive.

    Raises:
        DocumentError: when the file has more than ``MAX_ENTRY_BYTES``.
        UsageError: when pyarrow is needed but not installed.
    """
    info = archive.getinfo(name)
    if info.compress_type == _ZSTANDARD:
        data = _zstandard(_stored(archive, info))
    else:
        with archive.open(info) as stream:
            data = stream.read(MAX_ENTRY_BYTES + 1)
    if len(data) > MAX_ENTRY_BYTES:
        raise DocumentError(f"{name} holds more than {MAX_ENTRY_BYTES} bytes; leave the sample out", where=str(path))
    return data


def _stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the stored (compressed) bytes of a file in an archive; they follow the file's own header."""
    stream = archive.fp
    assert stream is not None
    stream.seek(info.header_offset)
    mark, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if mark != b"PK\x03\x04":
        raise zipfile.BadZipFile("a file of it has no header")
    stream.seek(name + extra, 1)
    return stream.read(info.compress_size)


def _zstandard(data: bytes) -> bytes:
    try:
        arrow: Any = importlib.import_module("pyarrow")
    except ImportError:
        raise UsageError(
            "this .eval log is compressed with Zstandard: pip install 'invarlock[parquet]', or write the log as JSON "
            "with inspect log convert --to json",
            code=Code.EXTRA_NOT_INSTALLED,
        ) from None
    with arrow.CompressedInputStream(arrow.BufferReader(data), "zstd") as stream:
        whole: bytes = stream.read(MAX_ENTRY_BYTES + 1)
    return whole
