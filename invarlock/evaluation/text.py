"""Text that models are scored on, and the one that ships with a suites folder."""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path

from invarlock.errors import EvaluationError, MissingFileError

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
