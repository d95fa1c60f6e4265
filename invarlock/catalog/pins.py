"""Pins: the exact revision and bytes of each model and data set of a run, as ``state/model_revisions.json`` has them.

Example::

    pins = read_pins(Path("run/state/model_revisions.json"))
    pins.models["mistralai/Mistral-7B-v0.1"].digest      # that of its baseline: "sha256:6f0c…"

A person may write such a file as well (``PACK_MODEL_REVISIONS_FILE``): id and revision are enough, the rest is then
found and added by the run that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.digests import digest_bytes
from invarlock.errors import DocumentError
from invarlock.jsonio import check_schema, read_json

SCHEMA = "model_revisions_v1"
# Code that a model brings is pinned, and is no part of a checkpoint.
CODE_SUFFIX = ".py"


@dataclass(frozen=True)
class PinnedFile:
    """A file of a model or a data set; the name is relative to the repository or folder that it is in."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Pin:
    """What a model or a data set is, exactly.

    The revision is a commit of the hub, or the digest of a folder (``sha256:<hex>``). ``resolved_at`` is when the hub
    was asked for it, None where it was not. ``converted_from`` are the pickled weights of a repository that has no
    others; ``files`` has the safetensors that they became.
    """

    id: str
    revision: str
    licence: str | None = None
    files: tuple[PinnedFile, ...] = ()
    resolved_at: str | None = None
    converted_from: tuple[PinnedFile, ...] = ()

    @property
    def digest(self) -> str | None:
        """The digest of the files as a checkpoint's, None where they are not known yet; code is no part of it."""
        digests = {file.name: file.sha256 for file in self.files if not file.name.endswith(CODE_SUFFIX)}
        return combine_digests(digests) if digests else None

    @property
    def code(self) -> dict[str, str]:
        """The code that the model brings: sha256 by name."""
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

    def document(self) -> dict[str, Any]:
        """Return what goes to ``state/model_revisions.json`` and into the pack."""
        return {
            "schema": SCHEMA,
            "models": [_row("model_id", pin) for _, pin in sorted(self.models.items())],
            "datasets": [_row("dataset_id", pin) for _, pin in sorted(self.datasets.items())],
        }


def read_pins(path: Path) -> Pins:
    """Return the pins in a file.

    Raises:
        MissingFileError: when there is no such file.
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


def _row(key: str, pin: Pin) -> dict[str, Any]:
    row = {
        key: pin.id,
        "revision": pin.revision,
        "licence": pin.licence,
        "resolved_at": pin.resolved_at,
        "files": _file_rows(pin.files),
    }
    return {**row, "converted_from": _file_rows(pin.converted_from)} if pin.converted_from else row


def _file_rows(files: Sequence[PinnedFile]) -> list[dict[str, Any]]:
    return [
        {"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256}
        for file in sorted(files, key=lambda file: file.name)
    ]


def _pins(rows: Sequence[Mapping[str, Any]], key: str, where: str) -> dict[str, Pin]:
    pins: dict[str, Pin] = {}
    for row in rows:
        if row[key] in pins:
            raise DocumentError(f"{where}: {row[key]!r} is pinned twice; keep one")
        pins[row[key]] = Pin(
            id=row[key],
            revision=row["revision"],
            licence=row.get("licence"),
            files=tuple(PinnedFile(**file) for file in row.get("files", [])),
            resolved_at=row.get("resolved_at"),
            converted_from=tuple(PinnedFile(**file) for file in row.get("converted_from", [])),
        )
    return pins
