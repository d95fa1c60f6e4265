"""Promotion sentinels for a real run whose subject was kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.jsonio import check_schema
from invarlock.problems import Code

MODEL = "embedded/mistral-tiny"
FOLDER = "embedded__mistral-tiny"


def test_kept_subjects_load_and_evaluate_and_lost_ones_are_reported(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    made = run_pytest("-k", "mistral and quant_4bit_clean", "--keep-models", "--no-pack", directory=kept)
    assert made.status == 0, made.output

    ran = run_pytest("-m", "sentinel", "-k", "quant", "--run-dir", str(kept), "--model", FOLDER)
    lost = run_pytest("-m", "sentinel", "--run-dir", str(kept), "--model", MODEL)
    other = run_pytest("-m", "sentinel", "--run-dir", str(kept), "--model", "gpt5")
    absent = run_pytest("-m", "sentinel")

    assert (ran.status, "2 passed" in ran.output) == (0, True), ran.output
    (session,) = (kept / "sentinels").iterdir()
    report = json.loads((session / FOLDER / "quant_4bit_clean" / "evaluation.report.json").read_bytes())
    check_schema(report, "evaluation_report", where="report")
    assert report["meta"]["model_id"] == MODEL
    # both ways of evaluating the kept subject recognise what it is
    metadata = json.loads((kept / FOLDER / "reports/quant_4bit_clean/run_1/edit_metadata.json").read_bytes())
    assert metadata["run_directory_contains_edit_artifacts"] is True
    public = json.loads((session / FOLDER / "public_quant" / "evaluation.report.json").read_bytes())
    for one in (report, public):
        assert (one["edit"]["name"], one["edit"]["parameters"]) == ("quant_rtn", metadata["parameters"])
        assert one["subject"]["digest"] == metadata["subject_digest"]
    verification = json.loads((session / FOLDER / "public_quant" / "verify.json").read_bytes())
    assert verification["summary"] == {"ok": True, "reason": "ok"}
    assert lost.status == 4
    assert (
        "models/prune_clean: missing: the run deleted its subjects or did not make this one; run it again with"
        in lost.output
    )
    assert "has no model 'gpt5'; it has embedded/mistral-tiny" in other.output
    assert "-m sentinel: give a run made with --keep-models: --run-dir RUN" in absent.output
    assert f"[{Code.RUN_DIRECTORY_UNUSABLE}]" in absent.output
