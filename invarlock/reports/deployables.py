"""The documents of a deployable subject: its packed weights, its memory, and whether it loads and generates.

Four documents have the measurements and their totals. ``deployable_artifact_validation.json`` is derived from them and
the report; it states whether the checkpoint can be served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invarlock.errors import DocumentError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.verification import differences

INVENTORY = "backend_inventory"
MEMORY = "memory_report"
LOAD = "load_smoke"
INFERENCE = "inference_smoke"
VALIDATION = "deployable_artifact_validation"
MEASURED = (INVENTORY, MEMORY, LOAD, INFERENCE)
DOCUMENTS = (*MEASURED, VALIDATION)
CATEGORY = "deployable"
SCHEMAS: Mapping[str, str] = {name: f"invarlock/{name.replace('_', '-')}-v1" for name in DOCUMENTS}

Documents = Mapping[str, Mapping[str, Any]]


def required_documents(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the deployable documents of a scenario's reports."""
    return DOCUMENTS if scenario["category"] == CATEGORY else ()


def inventory_totals(matrices: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the totals of the rows of an inventory."""
    return {
        "matrices": len(matrices),
        "parameters": sum(_elements(row["shape"]) for row in matrices),
        "packed_bytes": sum(row["packed_bytes"] for row in matrices),
        "dense_bytes": sum(row["dense_bytes"] for row in matrices),
    }


def memory_ratios(baseline: Mapping[str, int], subject: Mapping[str, int]) -> dict[str, float]:
    """Return the subject's bytes divided by the baseline's, for the weight files and for the loaded model."""
    return {key: subject[key] / baseline[key] for key in ("weight_files_bytes", "loaded_bytes")}


def validate_artifact(measured: Documents, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``deployable_artifact_validation.json``: each requirement for serving a checkpoint, and whether it is met.

    The perplexity ratio is judged by the gates of the report; here it only has to exist.
    """
    inventory, memory = measured[INVENTORY], measured[MEMORY]
    load, inference = measured[LOAD], measured[INFERENCE]
    ratios = memory["ratio"]
    checks = [
        _check("packed", inventory["totals"]["matrices"], inventory["totals"]["matrices"] > 0),
        _check("files_smaller", ratios["weight_files_bytes"], ratios["weight_files_bytes"] < 1.0),
        _check("memory_smaller", ratios["loaded_bytes"], ratios["loaded_bytes"] < 1.0),
        _check("loads_packed", load["packed_modules"], load["packed_modules"] == inventory["totals"]["matrices"]),
        _check("logits_finite", inference["nonfinite_logits"], inference["nonfinite_logits"] == 0),
        _check("generates", len(inference["token_ids"]), len(inference["token_ids"]) == inference["new_tokens"]),
        _check("repeatable", inference["repeated"], inference["repeated"] is True),
        _check("structure", report["invariants"]["status"], report["invariants"]["status"] != "fail"),
        _check(
            "scored",
            report["primary_metric"]["ratio_vs_baseline"],
            report["primary_metric"]["ratio_vs_baseline"] is not None,
        ),
    ]
    return {
        "schema": SCHEMAS[VALIDATION],
        "run_id": report["run_id"],
        "subject_digest": report["subject"]["digest"],
        "checks": checks,
        "ok": all(check["ok"] for check in checks),
    }


def failed_checks(validation: Mapping[str, Any]) -> list[str]:
    """Return the failed checks as text."""
    return [f"{check['name']} (seen: {check['seen']})" for check in validation["checks"] if not check["ok"]]


def deployable_problems(
    documents: Documents, report: Mapping[str, Any], metadata: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield the problems of the documents of a deployable subject.

    Args:
        documents: all of ``DOCUMENTS``, by name.
        report: the report in the same folder, which verifies.
        metadata: the ``edit_metadata.json`` in the same folder; None if malformed, which is reported elsewhere.
    """
    for name in DOCUMENTS:
        try:
            check_schema(documents[name], name, where=f"{name}.json")
        except DocumentError as error:
            yield from (problem.coded(Code.COMPANION_DIFFERS) for problem in error.problems)
            return
    subject = report["subject"]["digest"]
    for name in DOCUMENTS:
        for key, wanted in (("run_id", report["run_id"]), ("subject_digest", subject)):
            if documents[name][key] != wanted:
                yield _differs(name, key, "not that of the report")
    inventory, memory = documents[INVENTORY], documents[MEMORY]
    yield from _inventory_problems(inventory, report)
    derived = memory_ratios(memory["baseline"], memory["subject"])
    yield from differences(memory["ratio"], derived, "ratio", where=f"{MEMORY}.json")
    if metadata is not None:
        totals = inventory["totals"]
        pairs = {
            "coverage.edited_tensors": (metadata["coverage"]["edited_tensors"], totals["matrices"]),
            "coverage.edited_params": (metadata["coverage"]["edited_params"], totals["parameters"]),
            "storage_format": (metadata["storage_format"], inventory["storage_format"]),
            "backend": (metadata["backend"], inventory["backend"]),
            "runtime_memory_reduction": (
                metadata["runtime_memory_reduction"],
                memory["ratio"]["loaded_bytes"] < 1.0,
            ),
        }
        for key, (found, wanted) in pairs.items():
            if found != wanted:
                yield _differs("edit_metadata", key, f"{found!r}, derived {wanted!r}")
    expected = validate_artifact(documents, report)
    yield from differences(documents[VALIDATION], expected, where=f"{VALIDATION}.json")


def _inventory_problems(inventory: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[Problem]:
    totals = inventory_totals(inventory["matrices"])
    yield from differences(inventory["totals"], totals, "totals", where=f"{INVENTORY}.json")
    if inventory["spec"] != report["edit"]["spec"]:
        words = f"{inventory['spec']!r}, that of the report is {report['edit']['spec']!r}"
        yield _differs(INVENTORY, "spec", words)
    if inventory["backend"] != report["edit"]["name"]:
        yield _differs(INVENTORY, "backend", "not that of the report")
    for name in ("torch", "transformers"):
        if inventory["versions"].get(name) != report["meta"]["versions"].get(name):
            yield _differs(INVENTORY, f"versions.{name}", "not that of the report")
    raw = report["invariants"].get("raw")
    if raw is None:
        return
    tensors = raw["baseline"]["tensors"]
    names = [row["name"] for row in inventory["matrices"]]
    if sorted(set(names)) != names:
        yield _differs(INVENTORY, "matrices", "not sorted by name, each once")
    for row in inventory["matrices"]:
        if row["name"] not in tensors or tensors[row["name"]]["shape"] != row["shape"]:
            words = f"{row['name'][:100]!r} is not a matrix of the baseline with that shape"
            yield _differs(INVENTORY, "matrices", words)


def _differs(document: str, field: str, message: str) -> Problem:
    return Problem(Code.COMPANION_DIFFERS, f"{document}.json", field, message)


def _check(name: str, seen: Any, holds: bool) -> dict[str, Any]:
    return {"name": name, "seen": seen, "ok": holds}


def _elements(shape: Sequence[int]) -> int:
    elements = 1
    for size in shape:
        elements *= size
    return elements
