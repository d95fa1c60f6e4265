"""The types of presets and null runs, for readers and the type checker; at run time they are plain dictionaries.

Documents are checked against ``contracts/calibrated_preset.schema.json`` and ``contracts/null_run.schema.json``; a test
compares the fields here with these schemas.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from invarlock.documents import JsonObject
from invarlock.documents.measurements import KeptTokens, Spectra
from invarlock.documents.reports import BaselineDigests, ScoredText, ScoredWindows


class MeasuredOn(TypedDict):
    """How the null runs were measured; a report must have been measured in the same way as its preset."""

    device: str
    dtype: str
    attention: str


class NullRunReference(TypedDict):
    """A null run from which a preset was derived: its number, and ``sha256:<hex>`` of its file."""

    run: int
    sha256: str


class HeldOutRun(NullRunReference):
    """The null run judged by the preset derived from the others; ``signals`` lists the signals of each guard."""

    signals: JsonObject


class PresetDocument(TypedDict):
    """A preset: limits by ``guard.limit``, how each was derived, and the null runs from which they were derived."""

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
    """The seeds of the draw of windows and of the harmless changes."""

    windows: int
    changes: int


class NullRunHeader(TypedDict):
    """What a null run measured and how; the null runs of one preset differ only in number and seeds."""

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
    """The raw measurements of one null run: those of the baseline, and in ``changes`` those of each harmless change."""

    schema: Literal["invarlock/null-run-v1"]
    windows: NullRunWindows
    fidelity: KeptTokens
    spectral: Spectra
    rmt: JsonObject
    rmt_probe: JsonObject
    variance: JsonObject
    changes: list[JsonObject]
