"""Pins: the exact revision and files of each model and data set of a run, as in ``state/model_revisions.json``.

Example::

    pins = read_pins(Path("run/state/model_revisions.json"))
    pins.models["mistralai/Mistral-7B-v0.1"].digest      # the digest of its baseline: "sha256:6f0c…"

Such a file may also be written by hand (``PACK_MODEL_REVISIONS_FILE``). It needs only id and revision; a run that uses
it adds the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from invarlock.digests import digest_bytes
from invarlock.documents import JsonObject
from invarlock.documents.catalog import PinnedFileRow, PinRow, PinsDocument
from invarlock.errors import DocumentError
from invarlock.jsonio import check_schema, read_json
from invarlock.problems import Code

SCHEMA = "model_revisions_v1"
# The pin includes a model's own code, but the code is not part of the checkpoint.
CODE_SUFFIX = ".py"


@dataclass(frozen=True)
class PinnedFile:
    """A file of a model or a data set; the name is relative to its repository or folder."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Pin:
    """The exact identity of a model or a data set.

    The revision is a hub commit, or the digest of a folder (``sha256:<hex>``). ``resolved_at`` is the time of the
    hub request, None without one. ``converted_from`` are the pickled weights of a repository without
    safetensors; ``files`` has the safetensors converted from them.
    """

    id: str
    revision: str
    licence: str | None = None
    files: tuple[PinnedFile, ...] = ()
    resolved_at: str | None = None
    converted_from: tuple[PinnedFile, ...] = ()

    @property
    def digest(self) -> str | None:
        """The digest of the checkpoint's files without code, or None if they are not known yet."""
        digests = {file.name: file.sha256 for file in self.files if not file.name.endswith(CODE_SUFFIX)}
        return combine_digests(digests) if digests else None

    @property
    def code(self) -> dict[str, str]:
        """The model's own code files: sha256 by name."""
        return {file.name: file.sha256 for file in self.files if file.name.endswith(CODE_SUFFIX)}

    @property
    def size_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class Pins:
    """The pins of a run, by id."""

    models: Mapping[str, Pin] = field(default_factory=dict)
    datasets: Mapping[str, Pin] = field(default_factory=dict)

    def document(self) -> PinsDocument:
        """Return the document for ``state/model_revisions.json`` and the pack."""
        return {
            "schema": SCHEMA,
            "models": [_row("model_id", pin) for _, pin in sorted(self.models.items())],
            "datasets": [_row("dataset_id", pin) for _, pin in sorted(self.datasets.items())],
        }


def read_pins(path: Path) -> Pins:
    """Return the pins in a file.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when it is malformed or pins something twice.
    """
    return parse_pins(read_json(path), where=str(path))


def parse_pins(document: Any, *, where: str) -> Pins:
    """Return the pins of a document.

    Raises:
        DocumentError: when it is malformed or pins something twice.
    """
    check_schema(document, "model_revisions", where=where)
    return Pins(
        models=_pins(document["models"], "model_id", where),
        datasets=_pins(document.get("datasets", []), "dataset_id", where),
    )


def combine_digests(digests: Mapping[str, str]) -> str:
    """Return ``sha256:<hex>`` over the sorted lines of file digests, given as name to 64 hex digits."""
    lines = sorted(f"{digest}  {name}\n".encode() for name, digest in digests.items())
    return digest_bytes(b"".join(lines))


def _row(key: str, pin: Pin) -> PinRow:
    row: JsonObject = {
        key: pin.id,
        "revision": pin.revision,
        "licence": pin.licence,
        "resolved_at": pin.resolved_at,
        "files": _file_rows(pin.files),
    }
    return cast("PinRow", {**row, "converted_from": _file_rows(pin.converted_from)} if pin.converted_from else row)


def _file_rows(files: Sequence[PinnedFile]) -> list[PinnedFileRow]:
    return [
        {"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256}
        for file in sorted(files, key=lambda file: file.name)
    ]


def _pins(rows: Sequence[Mapping[str, Any]], key: str, where: str) -> dict[str, Pin]:
    pins: dict[str, Pin] = {}
    for row in rows:
        if row[key] in pins:
            raise DocumentError(
                f"{row[key]!r} is pinned twice; remove one entry", code=Code.SUITE_MALFORMED, where=where
            )
        pins[row[key]] = Pin(
            id=row[key],
            revision=row["revision"],
            licence=row.get("licence"),
            files=tuple(PinnedFile(**file) for file in row.get("files", [])),
            resolved_at=row.get("resolved_at"),
            converted_from=tuple(PinnedFile(**file) for file in row.get("converted_from", [])),
        )
    return pins
