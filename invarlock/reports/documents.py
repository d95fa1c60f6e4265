"""The shapes of presets and null runs, for readers of code and for the type checker; at run time they are dictionaries.

``contracts/calibrated_preset.schema.json`` and ``contracts/null_run.schema.json`` are what documents are checked
against; a test compares the fields here with those.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from invarlock.documents import JsonObject
from invarlock.documents.measurements import KeptTokens, Spectra
from invarlock.documents.reports import BaselineDigests, ScoredText, ScoredWindows


class MeasuredOn(TypedDict):
    """How the null runs were measured, which a report must have in common with its preset."""

    device: str
    dtype: str
    attention: str


class NullRunReference(TypedDict):
    """A null run that a preset learned from, by its number and ``sha256:<hex>`` of its file."""

    run: int
    sha256: str


class HeldOutRun(NullRunReference):
    """The null run that is judged by what the others taught; ``signals`` lists each guard's, by guard."""

    signals: JsonObject


class PresetDocument(TypedDict):
    """A preset: limits by ``guard.limit``, how each was derived, and the null runs that they were learned from."""

    schema: Literal["invarlock/calibrated-preset-v1"]
    model_id: str
    tier: str
    baseline: BaselineDigests
    measured: MeasuredOn
    dataset: ScoredText
    changes: list[str]
    null_runs: list[NullRunReference]
    limits: JsonObject
    derivation: JsonObject
    held_out: HeldOutRun


class NullRunMeta(MeasuredOn):
    """The model and the versions of the libraries that measured it."""

    model_id: str
    revision: str | None
    versions: dict[str, str]


class NullRunSeeds(TypedDict):
    """The seed of the draw of windows, and that of the harmless changes."""

    windows: int
    changes: int


class NullRunHeader(TypedDict):
    """What a null run was measured on, and how; the runs that a preset is learned from differ in number and seeds."""

    run: int
    seeds: NullRunSeeds
    meta: NullRunMeta
    baseline: BaselineDigests
    dataset: ScoredText
    measurement_contracts: JsonObject


class NullRunWindows(TypedDict):
    """The windows of a null run, with the losses of the baseline."""

    preview: ScoredWindows
    final: ScoredWindows


class NullRunDocument(NullRunHeader):
    """The raw measurements of one null run: the baseline's, and those of each harmless change in ``changes``."""

    schema: Literal["invarlock/null-run-v1"]
    windows: NullRunWindows
    fidelity: KeptTokens
    spectral: Spectra
    rmt: JsonObject
    rmt_probe: JsonObject
    variance: JsonObject
    changes: list[JsonObject]
