"""The documents of the catalog: the effective manifest of a run (``scenarios.json``) and ``model_revisions.json``."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from invarlock.documents.json_object import JsonObject


class SelectedCase(TypedDict):
    """One selected case."""

    model: str
    scenario: str
    run: int


class SelectedModel(TypedDict):
    """A model of the selected cases, with its pinned revision and its licence."""

    model_id: str
    revision: str | None
    licence: str


class Selection(TypedDict):
    """The selected cases, and the options that selected them."""

    suite: str
    models: list[SelectedModel]
    scenario_ids: list[str]
    expression: JsonObject
    cases: list[SelectedCase]
    informational_stress_min_signal_fraction: NotRequired[float]


class EffectiveManifest(TypedDict):
    """The scenarios of a run, copied from the catalog, and the selection."""

    schema: str
    schema_version: int
    scenarios: list[JsonObject]
    selection: Selection


class PinnedFileRow(TypedDict):
    """One file of a pinned model or data set."""

    name: str
    size_bytes: int
    sha256: str


class PinRow(TypedDict):
    """The pin of a model (``model_id``) or a data set (``dataset_id``)."""

    model_id: NotRequired[str]
    dataset_id: NotRequired[str]
    revision: str
    licence: str | None
    resolved_at: str | None
    files: list[PinnedFileRow]
    converted_from: NotRequired[list[PinnedFileRow]]


class PinsDocument(TypedDict):
    """``model_revisions.json``: the pins of a run."""

    schema: str
    models: list[PinRow]
    datasets: NotRequired[list[PinRow]]
