"""Strict reading and canonical writing of JSON, and the atomic file writer.

Example::

    document = read_json(path, limit_bytes=MAX_REPORT_BYTES)
    write_json(path, document)

Reading accepts one UTF-8 document without BOM, duplicate keys, NaN or Infinity, of bounded size and depth.
Writing sorts keys, indents by two, ends with a newline, prints floats by ``repr`` (the shortest text that
reads back as the same number) and refuses non-finite numbers.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jsonschema_rs

from invarlock.digests import digest_bytes
from invarlock.errors import DocumentError, MissingFileError
from invarlock.problems import Code, Problem

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

# Deeper than any document we write (reports nest 7 levels) and far below CPython's recursion limit.
MAX_DEPTH = 64
# The largest written document is the report of a model with a thousand matrices in the release profile: about 4 MB.
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
# An empty object in a list has three bytes of text but 72 of memory: a limit on the text does not limit the memory.
MAX_DOCUMENT_VALUES = 4_000_000
# A number with more digits than the largest float, which has 309, is not a measurement.
MAX_NUMBER_DIGITS = 308
# The number of schema violations that are reported; more would not help.
MAX_SCHEMA_PROBLEMS = 5
MAX_PROBLEM_CHARACTERS = 160
# How much of a file that is not JSON is shown.
_SHOWN_CHARACTERS = 20

_STRUCTURE = b'"\\[]{}'
_NO_STRUCTURE = bytes(sorted(set(range(256)) - set(_STRUCTURE)))
# Braces are treated as brackets, because the parser checks that they match.
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_STRING = re.compile(rb'"[^"]*"')
# Possessive, because otherwise the regex engine would use memory to backtrack into each character of a string.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
# Every digit becomes 0, every exponent mark e, and plus signs are removed, so that a few patterns find the numbers that
# may be out of range. A number can exceed the largest float if its exponent has three digits, or if it has a hundred
# digits before an exponent of two digits.
_NUMBERS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_LARGE_EXPONENT = re.compile(rb"e0000*+\s*+(?:[,\]}]|\Z)")
_MANY_DIGITS = b"0" * 100
_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(
    data: bytes,
    *,
    where: str,
    limit_bytes: int = MAX_DOCUMENT_BYTES,
    limit_values: int = MAX_DOCUMENT_VALUES,
    non_finite: bool = False,
) -> Any:
    """Return the document in ``data``; ``where`` is its name in messages.

    ``non_finite`` also accepts NaN and Infinity, as Python writes them into configs of models.

    Raises:
        DocumentError: when the bytes are not exactly one strict JSON document within the limits.
    """
    if len(data) > limit_bytes:
        raise DocumentError(f"{len(data)} bytes, more than the limit of {limit_bytes}", where=where)
    if data.startswith(b"\xef\xbb\xbf"):
        raise DocumentError("starts with a byte order mark; write it as plain UTF-8", where=where)
    # commas within strings count too: this is an upper bound, not an exact count
    structure = data.translate(_ONE_KIND, _NO_STRUCTURE)
    values = 1 + data.count(b",") + structure.count(b"[")
    if values > limit_values:
        raise DocumentError(f"{values} values, more than the limit of {limit_values}", where=where)
    _check_depth(data, structure, where)
    del structure
    try:
        decoders = _OF_CONFIGS if non_finite else _STRICT
        document = decoders[_may_be_out_of_range(data)].decode(data.decode("utf-8"))
        if b"\\u" in data and _LONE_SURROGATE.search(data):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 at byte {error.start}", where=where) from None
    except UnicodeEncodeError:
        raise DocumentError("a string has an unpaired surrogate, which is not a character", where=where) from None
    except json.JSONDecodeError as error:
        raise DocumentError(_not_json(error), where=where) from None
    except ValueError as error:
        raise DocumentError(str(error), where=where) from None
    return document


def _not_json(error: json.JSONDecodeError) -> str:
    text = error.doc.lstrip()
    if not text:
        return "empty, not JSON"
    if len(error.doc) - len(text) == error.pos:
        return f"not JSON; it begins with {text.splitlines()[0][:_SHOWN_CHARACTERS]!r}"
    return f"{error.msg} at line {error.lineno}, column {error.colno}"


def read_json(path: Path, *, limit_bytes: int = MAX_DOCUMENT_BYTES, non_finite: bool = False) -> Any:
    """Return the strict JSON document in a file; with ``non_finite`` it may have NaN and Infinity.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when it cannot be read, or is not one strict JSON document within the limits.
    """
    data = read_file(path, limit_bytes=limit_bytes)
    return parse_json(data, where=str(path), limit_bytes=limit_bytes, non_finite=non_finite)


def read_file(path: Path, *, limit_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Return the bytes of a file; a file over the limit is not read.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when it cannot be read, or is larger than the limit.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            # a pipe has no size, and a device may be endless
            data = b"" if size > limit_bytes else stream.read(limit_bytes + 1)
    except FileNotFoundError:
        raise MissingFileError("no such file", where=str(path)) from None
    except IsADirectoryError:
        raise DocumentError("a folder; give a file", where=str(path)) from None
    except OSError as error:
        raise DocumentError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if max(size, len(data)) > limit_bytes:
        raise DocumentError(f"{max(size, len(data))} bytes, more than the limit of {limit_bytes}", where=str(path))
    return data


def check_schema(document: Any, schema_name: str, *, where: str) -> None:
    """Validate a document with ``contracts/<schema_name>.schema.json``; ``where`` is its name in messages.

    Raises:
        DocumentError: when the document is invalid; one line lists the first violations with their place and reason.
    """
    validator = _validator(schema_name)
    if validator.is_valid(document):
        return
    found: list[tuple[list[str | int], str]] = [
        (list(error.absolute_path), _short(error.message))
        for error in islice(_explainer(schema_name).iter_errors(document), MAX_SCHEMA_PROBLEMS)
    ]
    if not found:
        # the two libraries treat '$' before a final newline differently; the stricter one decides
        found = [
            (list(error.instance_path), _short(error.message)) for error in islice(validator.iter_errors(document), 1)
        ]
    rows = [(f"at /{'/'.join(str(step)[:80] for step in path)}: {text}", path, text) for path, text in found]
    shown = sorted(rows, key=lambda row: row[0])
    raise DocumentError(
        f"{where}: does not match the {schema_name} format: {'; '.join(line for line, _, _ in shown)}",
        problems=[
            Problem(Code.DOCUMENT_MALFORMED, where, _field(path), f"{text} (format: {schema_name})")
            for _, path, text in shown
        ],
    )


_WRITTEN_FORM = json.JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)


def dump_json(document: Any) -> bytes:
    """Return the document as bytes in the written form: indented, sorted, with a newline at the end.

    Raises:
        ValueError: when a number is not finite; write ``null`` and a field with the reason instead.
    """
    text = _WRITTEN_FORM.encode(document)
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        # the text has a file name that is not UTF-8; its bytes are escaped as in printed messages
        spelled = _HALF_OF_A_PAIR.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text)
        return spelled.encode("utf-8") + b"\n"


def is_dump_of(data: bytes, document: Any) -> bool:
    """Return whether ``dump_json`` writes a document as these bytes, without using the memory that they need again.

    False is possible for a document with a file name that is not UTF-8. A number that is not finite is written as no
    bytes.
    """
    end = 0
    try:
        for piece in _WRITTEN_FORM.iterencode(document):
            own = piece.encode("utf-8", "surrogatepass")
            if not data.startswith(own, end):
                return False
            end += len(own)
    except ValueError:
        return False
    return data[end:] == b"\n"


def canonical_json(document: Any) -> bytes:
    """Return the compact form for digests: sorted keys, no spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode(
        "ascii"
    )


def digest_document(document: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical form of a document."""
    return digest_bytes(canonical_json(document))


def write_json(path: Path, document: Any) -> None:
    """Write a document atomically."""
    write_bytes(path, dump_json(document))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and durably.

    A temporary file in the same folder is written, synced and renamed into place. A replaced file keeps its mode, and
    its owner if possible.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "a folder, device or pipe, which is not replaced", str(path))
    replaced = path.stat() if path.is_file() else None
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if replaced is not None:
            with suppress(PermissionError):
                os.chown(temporary, replaced.st_uid, replaced.st_gid)
        # the mode is set after the owner, since changing the owner clears mode bits
        Path(temporary).chmod(0o644 if replaced is None else replaced.st_mode & 0o777)
        Path(temporary).replace(path)
    except BaseException as error:  # including Ctrl-C
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            # the error of a full disk has no file name, and the temporary one would not help
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _schema(schema_name: str) -> Any:
    data = resources.files("invarlock.contracts").joinpath(f"{schema_name}.schema.json").read_bytes()
    return parse_json(data, where=schema_name)


@cache
def _validator(schema_name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(_schema(schema_name))


@cache
def _explainer(schema_name: str) -> Validator:
    # imported here because it takes 80 ms, and only an invalid document needs it
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.validators import extend

    # the library's own messages repeat the whole text, which in hostile documents may have megabytes
    def max_length(validator: Any, limit: int, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and len(instance) > limit:
            yield ValidationError(f"{_cut(instance)!r} is too long")

    def pattern(validator: Any, expression: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and re.search(expression, instance) is None:
            yield ValidationError(f"{_cut(instance)!r} does not match {expression!r}")

    untyped: Any = extend
    validator: Validator = untyped(Draft202012Validator, {"maxLength": max_length, "pattern": pattern})(
        _schema(schema_name)
    )
    return validator


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM_CHARACTERS else f"{text[:MAX_PROBLEM_CHARACTERS]}..."


def _short(message: str) -> str:
    message = " ".join(message.split())
    # the start shows the value, the end the reason
    return message if len(message) <= MAX_PROBLEM_CHARACTERS else f"{message[:60]} ... {message[-90:]}"


def _field(path: Iterable[str | int]) -> str:
    """Return the path of a location in a document: ``models[0].revision``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:80]}" for step in path)
    return "".join(steps).removeprefix(".")


def _may_be_out_of_range(data: bytes) -> bool:
    """Return whether a number may be too large or too long; text in a string may cause a false positive."""
    numbers = data.translate(_NUMBERS_ALIKE, b"+")
    return _MANY_DIGITS in numbers or _LARGE_EXPONENT.search(numbers) is not None


def _check_depth(data: bytes, structure: bytes, where: str) -> None:
    if b"\\" not in structure:
        # adjacent strings are treated as one, since brackets within strings do not count
        structure = _STRING.sub(b"", structure.replace(b'""', b""))
        for _ in range(MAX_DEPTH):
            # each round removes the innermost level
            structure = structure.replace(b"[]", b"")
            if not structure:
                return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        token = data[match.start()]
        if token in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise DocumentError(f"nested deeper than {MAX_DEPTH} levels", where=where)
        elif token in b"]}":
            depth -= 1


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {twice[:80]!r} appears twice in one object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write a non-finite number as null")


def _bounded_int(text: str) -> int:
    if len(text) > MAX_NUMBER_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is out of range")
    return int(text)


def _bounded_float(text: str) -> float:
    if len(text) > MAX_NUMBER_DIGITS:
        raise ValueError(f"a number of {len(text)} characters is out of range")
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large for a float")
    return value


def _decoders(parse_constant: Callable[[str], Any]) -> tuple[json.JSONDecoder, json.JSONDecoder]:
    """Return a fast decoder, and one for documents with numbers that may be out of range.

    Calling Python for each number doubles the parsing time.
    """
    shared: dict[str, Any] = {"object_pairs_hook": _unique_pairs, "parse_constant": parse_constant}
    return (
        json.JSONDecoder(**shared),
        json.JSONDecoder(**shared, parse_int=_bounded_int, parse_float=_bounded_float),
    )


_STRICT = _decoders(_refuse_constant)
_OF_CONFIGS = _decoders(float)
