"""Decompresses files completely or refuses them, and decodes their text.

The readers of the standard library stop silently if the data after a stream is not another stream; here that is an
error. A file of several streams (``cat a.xz b.xz``, pixz, pigz) is read to its end.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from invarlock.errors import EvaluationError
from invarlock.problems import Code

# The longest text that is scored; the embedded text has 0.4 MB.
MAX_TEXT_BYTES = 256 * 1024 * 1024
_GZIP = 31  # the value of zlib's wbits for a gzip header and trailer
_DECOMPRESSORS: Mapping[str, Callable[[], Any]] = {
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO),
    ".lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO),
    ".bz2": bz2.BZ2Decompressor,
    ".gz": lambda: zlib.decompressobj(_GZIP),
}
COMPRESSIONS = tuple(_DECOMPRESSORS)
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip


def decompress(data: bytes, suffix: str, where: str) -> bytes:
    """Return the decompressed content of a file, with all of its streams.

    Args:
        data: the file's bytes.
        suffix: one of ``COMPRESSIONS``, which names the compression.
        where: the name of the file in messages.

    Raises:
        EvaluationError: when the data is truncated, has trailing garbage, or is longer than ``MAX_TEXT_BYTES``.
    """
    whole = bytearray()
    if not data:
        raise EvaluationError(f"not a {suffix} file, it is empty; fetch it again", code=Code.TEXT_UNUSABLE, where=where)
    while data:
        stream = _DECOMPRESSORS[suffix]()
        try:
            whole += stream.decompress(data, MAX_TEXT_BYTES + 1 - len(whole))
        except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
            what = "something else follows its end" if whole else f"not a {suffix} file"
            raise EvaluationError(f"{what} ({error}); fetch it again", code=Code.TEXT_UNUSABLE, where=where) from None
        if len(whole) > MAX_TEXT_BYTES:
            raise too_long(where)
        if not stream.eof:
            raise EvaluationError(
                "it is cut off, its end is missing; fetch it again", code=Code.TEXT_UNUSABLE, where=where
            )
        # streams may be padded with zeros
        data = stream.unused_data.lstrip(b"\0")
    return bytes(whole)


def decode(data: bytes, where: str) -> str:
    """Return UTF-8 text without a byte order mark, with ``\\n`` as its line ends.

    Raises:
        EvaluationError: when the data has another encoding.
    """
    for mark, encoding in _OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise EvaluationError(
                f"not UTF-8 text, it is {encoding}; convert it with iconv", code=Code.TEXT_UNUSABLE, where=where
            )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"not UTF-8 text ({error.reason} at byte {error.start})", code=Code.TEXT_UNUSABLE, where=where
        ) from None
    return one_line_end(text)


def one_line_end(text: str) -> str:
    """Return a text with every line end as ``\\n``, like Python's universal newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def too_long(where: str) -> EvaluationError:
    """Return the error for a text of more than ``MAX_TEXT_BYTES``."""
    return EvaluationError(
        f"more than {MAX_TEXT_BYTES} bytes of text; use a shorter one", code=Code.TEXT_UNUSABLE, where=where
    )
