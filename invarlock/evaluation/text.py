"""Text that models are scored on."""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path

from invarlock.errors import EvaluationError, MissingFileError
from invarlock.jsonio import parse_json

# The longest text that a suite may ship; the embedded one is 0.4 MB.
MAX_TEXT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class SourceText:
    """A text, the kind of source that it came from, and the digest of the text's UTF-8 bytes."""

    provider: str
    text: str
    sha256: str


def read_embedded_text(path: Path, expected_sha256: str) -> SourceText:
    """Return the text of an xz-compressed UTF-8 file that ships with a suites folder.

    Args:
        path: the compressed file.
        expected_sha256: hex digest of the compressed bytes.

    Raises:
        MissingFileError: when there is no such file.
        EvaluationError: when its digest is another, or it is no xz-compressed UTF-8 text.
    """
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; the suite's text is named in models.toml") from None
    found = hashlib.sha256(packed).hexdigest()
    if found != expected_sha256:
        raise EvaluationError(f"{path}: sha256 is {found}, models.toml expects {expected_sha256}; restore the file")
    try:
        data = lzma.LZMADecompressor().decompress(packed, max_length=MAX_TEXT_BYTES)
        text = data.decode("utf-8")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: not xz-compressed UTF-8 text ({error})") from None
    return SourceText("embedded", text, f"sha256:{hashlib.sha256(data).hexdigest()}")


def read_local_text(path: Path) -> SourceText:
    """Return a text from disk: ``.jsonl`` (an object a line, with ``text``), ``.xz``, or plain UTF-8.

    Raises:
        MissingFileError: when there is no such file.
        EvaluationError: when it is none of these, or too long.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; name a text to score on") from None
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MAX_TEXT_BYTES:
        raise EvaluationError(f"{path}: more than {MAX_TEXT_BYTES} bytes; use a shorter text")
    try:
        if path.suffix == ".xz":
            data = lzma.LZMADecompressor().decompress(data, max_length=MAX_TEXT_BYTES)
        text = data.decode("utf-8")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: not UTF-8 text ({error})") from None
    if path.suffix != ".jsonl":
        return SourceText("local_text", text, f"sha256:{hashlib.sha256(data).hexdigest()}")
    rows = [parse_json(line.encode("utf-8"), where=f"{path}: line {n}") for n, line in _lines(text)]
    if not rows or not all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in rows):
        raise EvaluationError(f"{path}: each line must be an object with a 'text'")
    joined = "\n\n".join(row["text"] for row in rows)
    return SourceText("local_jsonl", joined, f"sha256:{hashlib.sha256(joined.encode('utf-8')).hexdigest()}")


def _lines(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
