"""The sources that were found for the models and texts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.catalog.models import Model
from invarlock.catalog.pins import Pin
from invarlock.errors import InvarLockError
from invarlock.output import ShowLine
from invarlock.problems import Problem

# at run time these are imported where they are used: checkpoint readers are slow to import, and collecting needs none
if TYPE_CHECKING:
    from invarlock.checkpoints.revisions import RequiredFiles


@dataclass(frozen=True)
class TextSource:
    """The source of a run's data set: its pin if it is on disk, otherwise its files on the hub."""

    pin: Pin | None = None
    resolved: RequiredFiles | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def missing_bytes(self) -> int:
        """Return the bytes of the text that must be downloaded."""
        return 0 if self.resolved is None else self.resolved.missing_bytes

    def obtain(self, show: ShowLine) -> dict[str, Pin]:
        """Download and verify missing files, and return the data set's pin by its id; empty without a data set.

        Raises:
            HubError: if the data set cannot be downloaded.
        """
        # imported here: collecting reads no checkpoint
        from invarlock.checkpoints.revisions import fetch

        pin = self.pin if self.resolved is None else fetch(self.resolved, show)
        return {} if pin is None else {pin.id: replace(pin, licence=pin.licence or "unknown")}


@dataclass(frozen=True)
class Source:
    """The source of a model.

    Attributes:
        model: the model, with the sizes and architecture found in the source.
        pin: the model's pin, if all of its files are on disk.
        resolved: the model's files on the hub, if it must be downloaded.
        wanted: the pin that was requested.
    """

    model: Model
    pin: Pin | None = None
    resolved: RequiredFiles | None = None
    wanted: Pin | None = None

    @property
    def pinned_model(self) -> Model:
        """The model with its revision and licence."""
        if self.resolved is not None:
            revision, licence = self.resolved.listing.commit, self.resolved.listing.licence
        else:
            assert self.pin is not None
            revision, licence = self.pin.revision, self.pin.licence
        if self.wanted is not None and self.wanted.files:
            # a resumed run keeps the licence that it recorded
            licence = self.wanted.licence
        return replace(self.model, revision=revision, licence=licence or self.model.licence)

    @property
    def missing_bytes(self) -> int:
        """Bytes to download into the client's cache."""
        return 0 if self.resolved is None else self.resolved.missing_bytes


@dataclass(frozen=True)
class Sources:
    """The sources of a run's models (by id) and data sets, the problems, and how much must be downloaded."""

    models: Mapping[str, Source] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    missing_bytes: int = 0
    texts: tuple[TextSource, ...] = ()

    def sized(self, model: Model) -> Model:
        """Return a model with the sizes found in its source, or those of the catalog if no source was looked for.

        For a user's folder, the sizes are those of its files, or zero if the files cannot be read, which preflight
        reports.
        """
        found = self.models.get(model.id)
        if found is not None:
            return found.model
        if model.path is None or model.weight_bytes:
            return model
        try:
            return sized_by_files(model, Path(model.path))
        except InvarLockError:
            return model


def sized_by_files(model: Model, folder: Path) -> Model:
    """Return a model with the sizes of the weights in a folder."""
    # imported here: collecting reads no checkpoint
    from invarlock.checkpoints.storage_format import check_dense

    files = check_dense(folder)
    stored = sum(entry.size_bytes for entry in files.entries.values())
    return replace(
        model,
        weight_bytes=stored,
        parameters=files.total_parameters,
        architecture=files.model_type,
    )
