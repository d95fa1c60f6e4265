"""The pack's manifest lists the inputs of a run, by path and digest."""

import json
from typing import Any

from packs import sha256


def test_a_suites_pack_names_what_it_was_made_from(real_run: Any) -> None:
    manifest = json.loads((real_run.pack / "manifest.json").read_bytes())

    materials = {row["name"]: row for row in manifest["materials"]}

    assert sorted(materials) == [
        "model_revisions",
        "preset_calibrated_preset_embedded__mistral-tiny",
        "pytest_report",
        "scenarios",
        "settings",
        "tuned_edit_params",
    ]
    for row in materials.values():
        assert row["digest"] == f"sha256:{sha256((real_run.pack / row['path']).read_bytes())}"
    settings = json.loads((real_run.pack / "metadata/settings.json").read_bytes())
    assert settings == manifest["invocation"]["parameters"]


def test_the_times_of_a_run_add_up_over_models_and_categories(real_run: Any) -> None:
    path = real_run.pack / "results/analysis/evaluation_optimization_summary.json"
    summary = json.loads(path.read_bytes())
    timings = [json.loads(found.read_bytes()) for found in real_run.pack.glob("reports/**/evaluate_timing.json")]

    assert summary["timing_files"] == len(timings) == 3
    assert (summary["baseline_reports_reused"], summary["renders_deferred"]) == (3, 0)
    total = sum(value for row in timings for name, value in row.items() if name.endswith("_seconds"))
    for part in (summary["by_category"], summary["by_model"], {"all": summary["stages"]}):
        assert abs(sum(row["total_seconds"] for row in part.values()) - total) < 1e-4
    assert set(summary["by_category"]) == {"clean", "stress", "error_injection"}
    assert set(summary["by_model"]) == {"embedded/mistral-tiny"}
