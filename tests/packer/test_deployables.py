"""Deployable subjects in packs: measurements are bound to the report, and everything else is derived again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packs import MODEL, edit_json, messages, places, seal, strict

from invarlock.problems import Code
from invarlock.reports.deployables import DOCUMENTS

FOLDER = f"reports/{MODEL}/quant_8bit_deployable/run_1"


@pytest.fixture
def deployed(deployed_run: Any, tmp_path: Path) -> Path:
    shutil.copytree(deployed_run.pack, tmp_path / "pack")
    return tmp_path / "pack"


@pytest.mark.slow
def test_a_pack_with_a_deployable_subject_verifies_and_has_no_weights(deployed: Path) -> None:
    result = strict(deployed)

    metadata = json.loads((deployed / FOLDER / "edit_metadata.json").read_text())
    assert (result.code, result.problems, result.verdict) == (0, (), "PASS")
    assert {f"{name}.json" for name in DOCUMENTS} <= {path.name for path in (deployed / FOLDER).iterdir()}
    assert not list(deployed.rglob("*.safetensors"))
    assert metadata["artifact_class"] == "deployable_optimized_subject"
    assert (metadata["backend"], metadata["storage_format"]) == ("torchao_int8", "int8_grouped")
    assert metadata["runtime_memory_reduction"] is True


VALIDATION = "deployable_artifact_validation"
NUMBER, COMPANION = Code.NUMBER_DOES_NOT_FOLLOW, Code.COMPANION_DIFFERS


@pytest.mark.parametrize(
    ("name", "change", "code", "file", "field"),
    [
        (
            "backend_inventory",
            lambda d: d["totals"].update(matrices=29),
            NUMBER,
            "backend_inventory",
            "totals.matrices",
        ),
        ("backend_inventory", lambda d: d["matrices"].pop(), NUMBER, "backend_inventory", "totals.matrices"),
        (
            "backend_inventory",
            lambda d: d["matrices"][0].update(name="model.x"),
            COMPANION,
            "backend_inventory",
            "matrices",
        ),
        (
            "backend_inventory",
            lambda d: d.update(spec="torchao_int8:8:64:all"),
            COMPANION,
            "backend_inventory",
            "spec",
        ),
        (
            "backend_inventory",
            lambda d: d["versions"].update(torch="1.0"),
            COMPANION,
            "backend_inventory",
            "versions.torch",
        ),
        ("memory_report", lambda d: d["ratio"].update(loaded_bytes=0.1), NUMBER, "memory_report", "ratio.loaded_bytes"),
        ("memory_report", lambda d: d["subject"].update(loaded_bytes=1), NUMBER, "memory_report", "ratio.loaded_bytes"),
        ("load_smoke", lambda d: d.update(packed_modules=0), NUMBER, VALIDATION, "checks[3].ok"),
        ("inference_smoke", lambda d: d.update(repeated=False), NUMBER, VALIDATION, "checks[6].ok"),
        ("inference_smoke", lambda d: d.update(run_id="0" * 16), COMPANION, "inference_smoke", "run_id"),
        (VALIDATION, lambda d: d["checks"][0].update(seen=99), NUMBER, VALIDATION, "checks[0].seen"),
        (VALIDATION, lambda d: d.clear(), COMPANION, VALIDATION, ""),
    ],
)
def test_a_document_that_does_not_follow_is_refused(
    deployed: Path, deployed_run: Any, name: str, change: Callable[[Any], object], code: Code, file: str, field: str
) -> None:
    edit_json(deployed / FOLDER / f"{name}.json", change)
    seal(deployed, deployed_run.key)

    result = strict(deployed)

    assert (code, f"{FOLDER}/{file}.json", field) in places(result), messages(result)
    assert result.code == 7


def test_a_document_that_is_missing_is_refused(deployed: Path, deployed_run: Any) -> None:
    (deployed / FOLDER / "load_smoke.json").unlink()
    seal(deployed, deployed_run.key)

    result = strict(deployed)

    assert (Code.FILE_ABSENT, f"{FOLDER}/load_smoke.json", "") in places(result), messages(result)
    assert result.code == 7


def test_an_artifact_that_cannot_be_served_fails_its_case(deployed_run: Any) -> None:
    from invarlock.reports.deployables import validate_artifact
    from invarlock.verdict.compiling import judge_report, planned_cases

    folder = deployed_run.pack / FOLDER
    documents = {name: json.loads((folder / f"{name}.json").read_text()) for name in DOCUMENTS}
    report = json.loads((folder / "evaluation.report.json").read_text())
    plan = planned_cases(json.loads((deployed_run.pack / "metadata" / "scenarios.json").read_text()))
    documents["inference_smoke"]["nonfinite_logits"] = 3
    documents[DOCUMENTS[-1]] = validate_artifact(documents, report)

    record = judge_report(plan[f"{FOLDER}/evaluation.report.json"], {**report, **documents}, "")

    assert record["passed"] is False
    assert record["reasons"] == ["deployable, but logits_finite (seen: 3)"]
