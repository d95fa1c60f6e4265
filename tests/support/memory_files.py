"""The files of a pack in memory, to derive claims from files that no pack has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.packer.format.limits import MAX_JSON_BYTES, MAX_JSON_VALUES, MAX_TEXT_BYTES

from invarlock.digests import sha256_hex
from invarlock.errors import MissingFileError
from invarlock.jsonio import parse_json
from invarlock.problems import Code


class MemoryFiles:
    """The files of a pack, by their path in it."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._digests = {path: sha256_hex(data) for path, data in files.items()}

    @property
    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file, by path."""
        return self._digests

    def data(self, path: str, limit_bytes: int = MAX_TEXT_BYTES) -> bytes:
        """Return the bytes of a file.

        Raises:
            MissingFileError: when there is no such file.
        """
        if path not in self._files:
            raise MissingFileError("missing", where=path, code=Code.FILE_ABSENT)
        return self._files[path]

    def document(self, path: str) -> Any:
        """Return a file as a JSON document.

        Raises:
            MissingFileError: when there is no such file.
            DocumentError: when it is not strict JSON or too large.
        """
        data = self.data(path, MAX_JSON_BYTES)
        return parse_json(data, where=path, limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)
