"""The texts that models are scored on, including the text that ships with a suites folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invarlock.digests import digest_bytes, sha256_hex
from invarlock.errors import EvaluationError, MissingFileError
from invarlock.evaluation.compressed_text import decode, decompress
from invarlock.jsonio import digest_document
from invarlock.problems import Code

# The provider name of several texts; each text has its own provider.
SLICED = "slices"


@dataclass(frozen=True)
class SourceText:
    """A text, the kind of its source, and the digest of its UTF-8 bytes.

    ``slices`` has the texts of several slices by name; the text is then empty, and the digest covers the slices.
    """

    provider: str
    text: str
    sha256: str
    slices: Mapping[str, SourceText] = field(default_factory=dict)


def sliced_text(slices: Mapping[str, SourceText]) -> SourceText:
    """Return several named texts as one source."""
    digest = digest_document([[name, text.sha256] for name, text in slices.items()])
    return SourceText(SLICED, "", digest, dict(slices))


def read_embedded_text(path: Path, expected_sha256: str) -> SourceText:
    """Return the text of an xz-compressed UTF-8 file that ships with a suites folder.

    Args:
        path: the compressed file.
        expected_sha256: hex digest of the compressed bytes.

    Raises:
        MissingFileError: when the file does not exist.
        EvaluationError: when its digest differs, or it is not an xz-compressed UTF-8 text.
    """
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; the suite's text is named in models.toml") from None
    except OSError as error:
        raise EvaluationError(
            f"cannot be read ({error.strerror}); restore the file", code=Code.TEXT_UNUSABLE, where=str(path)
        ) from None
    found = sha256_hex(packed)
    if found != expected_sha256:
        raise EvaluationError(
            f"sha256 is {found}, models.toml expects {expected_sha256}; restore the file",
            code=Code.TEXT_UNUSABLE,
            where=str(path),
        )
    text = decode(decompress(packed, ".xz", str(path)), str(path))
    return SourceText("embedded", text, digest_bytes(text.encode("utf-8")))
