"""Scenarios for users' own subjects: each must pass every gate; how it was made is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from invarlock.catalog.cases import SCHEMA
from invarlock.documents import JsonObject
from invarlock.documents.catalog import EffectiveManifest


def user_scenario(name: str, suite: str, generation: Mapping[str, Any]) -> JsonObject:
    """Return the row of a scenario, given its id, its suite and its ``generation`` of the kind ``brought``."""
    return {
        "id": name,
        "suites": [suite],
        "category": "clean",
        "strictness": "must_pass",
        "intent": "clean_control",
        "failure_class": "none",
        "primary_guard": "primary_metric",
        "generation": dict(generation),
        "requirements": {
            "primary_guard_required": False,
            "catastrophic_required": False,
            "detectors_all_of": [],
            "detectors_any_of": [],
        },
        "artifact_class": "validation_subject_checkpoint",
        "deployable_as_hf_checkpoint": False,
        "optimized_deployment_backend": None,
        "contains_model_weights_in_pack": False,
        "run_directory_contains_edit_artifacts": False,
    }


def pair_manifest(report: Mapping[str, Any]) -> EffectiveManifest:
    """Return the effective manifest of a report of ``invarlock evaluate``: its only case, which must pass."""
    meta, edit = report["meta"], report["edit"]
    signed = {
        side: dict(report[block]["model_signature"])
        for side, block in (("baseline", "baseline_ref"), ("subject", "subject"))
        if "model_signature" in report[block]
    }
    generation = {
        "kind": "brought",
        "edit_label": edit["label"],
        **({"edit_label_source": edit["label_source"]} if edit.get("label_source") else {}),
        **({"expected": list(edit["expected"])} if edit.get("expected") else {}),
        **({"model_signatures": signed} if signed else {}),
    }
    suite = report["context"]["suite"]
    manifest = {
        "schema": SCHEMA,
        "schema_version": 1,
        "scenarios": [user_scenario(meta["scenario"], suite, generation)],
        "selection": {
            "suite": suite,
            "models": [{"model_id": meta["model_id"], "revision": meta["revision"], "licence": "unknown"}],
            "scenario_ids": [meta["scenario"]],
            "expression": {},
            "cases": [{"model": meta["model_id"], "scenario": meta["scenario"], "run": meta["run"]}],
        },
    }
    return cast("EffectiveManifest", manifest)
