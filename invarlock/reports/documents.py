"""The shapes of presets and null runs, for readers of code and for the type checker; at run time they are dictionaries.

``contracts/calibrated_preset.schema.json`` and ``contracts/null_run.schema.json`` are what documents are checked
against; a test compares the fields here with those.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class BaselineDigests(TypedDict):
    """The baseline checkpoint: ``sha256:<hex>`` of its weights, and of its tokenizer's files."""

    digest: str
    tokenizer_sha256: str


class DatasetDocument(TypedDict):
    """The text and the windows: ``seq_len`` in tokens, ``prefix_token_ids`` at the start of each window."""

    provider: str
    source_sha256: str
    seq_len: int
    tokenizer_sha256: str
    prefix_token_ids: list[int]
    windows: dict[str, Any]


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

    signals: dict[str, Any]


class PresetDocument(TypedDict):
    """A preset: limits by ``guard.limit``, how each was derived, and the null runs that they were learned from."""

    schema: Literal["invarlock/calibrated-preset-v1"]
    model_id: str
    tier: str
    baseline: BaselineDigests
    measured: MeasuredOn
    dataset: DatasetDocument
    changes: list[str]
    null_runs: list[NullRunReference]
    limits: dict[str, Any]
    derivation: dict[str, Any]
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
    dataset: DatasetDocument
    measurement_contracts: dict[str, Any]


class NullRunDocument(NullRunHeader):
    """The raw measurements of one null run: the baseline's, and those of each harmless change in ``changes``."""

    schema: Literal["invarlock/null-run-v1"]
    windows: dict[str, Any]
    fidelity: dict[str, Any]
    spectral: dict[str, Any]
    rmt: dict[str, Any]
    rmt_probe: dict[str, Any]
    variance: dict[str, Any]
    changes: list[dict[str, Any]]
