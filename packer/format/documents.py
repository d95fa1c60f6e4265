"""The types of ``manifest.json``, for readers and the type checker; at run time a manifest is a plain dictionary.

A manifest is validated with ``contracts/evidence_pack_manifest.schema.json``. Only three fields are required;
every other block may be missing or partial.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypedDict

from invarlock.documents.json_object import JsonObject


class Reference(TypedDict, total=False):
    """A reference to a file of the pack by its path, its digest (``sha256:<hex>``), or both."""

    name: str
    path: str
    digest: str


class BaselineReference(Reference, total=False):
    """A baseline's own report, and the reports that were measured against it."""

    report_paths: list[str]


class ConfigSource(Reference, total=False):
    """The source repository that a run was started from."""

    uri: str | None
    commit: str | None
    branch: str | None
    describe: str | None
    dirty: bool | None


class Invocation(TypedDict, total=False):
    """How a run was started; ``parameters`` are its settings, each with ``value`` and ``source``."""

    config_source: ConfigSource
    parameters: JsonObject


class Verification(TypedDict, total=False):
    """The checks that the maker of a pack ran."""

    clean_reports: int
    stress_reports: int
    error_injection_reports: int
    failed_reports: int
    policy_profile: str
    report_assurance: Literal["report", "strict", "off"]


class ModelReference(TypedDict, total=False):
    """A model and the revision that was measured."""

    model_id: str
    revision: str | None


class Builder(TypedDict, total=False):
    """The program that built a pack."""

    id: str
    name: str
    version: str


class Manifest(TypedDict, total=False):
    """``manifest.json``, format ``evidence-pack-v1``."""

    format: Required[Literal["evidence-pack-v1"]]
    checksums_sha256: Required[Literal["checksums.sha256"]]
    checksums_sha256_digest: Required[str]
    generated_at: str
    suite: str
    network_mode: Literal["offline", "online"]
    evidence_level: Literal["high", "medium", "low"]
    determinism: str
    repeats: int
    determinism_repeats: dict[str, Any] | None
    run_dir: str
    invarlock_version: str
    builder: Builder
    subject: Reference
    invocation: Invocation
    environment: Reference
    model_list: list[str]
    models: list[ModelReference]
    artifacts: list[Reference]
    materials: list[Reference]
    verification_baselines: list[BaselineReference]
    model_licenses: dict[str, str]
    verification: Verification
    signing_key_fingerprint: str
