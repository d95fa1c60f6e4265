"""The disk space that a run needs, and that it reserves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.catalog.models import read_models
from invarlock.harness.devices.memory_plan import needed_bytes
from invarlock.harness.planning.sizing import ModelNeed, disk_need
from invarlock.harness.state.disk_pressure import DiskPressure, measure_disk_usage
from invarlock.jsonio import check_schema, read_json

SUITES = Path(__file__).parents[3] / "suites"


@pytest.mark.parametrize(
    ("storage", "shares_cache", "gigabytes"),
    [("snapshot_copy", True, 56), ("snapshot_symlink", True, 42), ("snapshot_symlink", False, 28)],
)
def test_two_workers_on_the_subset_need_what_is_known(storage: str, shares_cache: bool, gigabytes: int) -> None:
    """The expected figures are for 14 GB of weights; the model has 14.5 GB."""
    mistral = read_models(SUITES / "models.toml").models["mistralai/Mistral-7B-v0.1"]
    workers = 2
    need = ModelNeed(mistral, 37, needed_bytes(mistral, "gpu"), mistral.weight_bytes, workers * mistral.weight_bytes)

    found = disk_need([need], missing_bytes=mistral.weight_bytes, storage=storage, keep_models=False)

    assert found.on_run_disk(shares_cache=shares_cache) == pytest.approx(gigabytes / 14 * mistral.weight_bytes)
    assert found.on_run_disk(shares_cache=shares_cache) / 1e9 == pytest.approx(gigabytes, rel=0.04)


def test_subjects_of_all_models_count_where_they_are_kept_and_those_of_the_largest_elsewhere() -> None:
    models = read_models(SUITES / "models.toml").models
    needs = [
        ModelNeed(models[name], 4, 0, models[name].weight_bytes, 3 * models[name].weight_bytes)
        for name in ("mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-14B")
    ]
    small, large = (need.baseline_bytes for need in needs)

    kept, removed = (
        disk_need(needs, missing_bytes=0, storage="snapshot_copy", keep_models=keep).run_bytes for keep in (True, False)
    )

    assert kept == 4 * (small + large)
    assert removed == small + 4 * large


def test_the_most_probable_tokens_of_each_draw_count() -> None:
    model = read_models(SUITES / "models.toml").models["embedded/mistral-tiny"]
    # 3 draws of 400 windows with 512 tokens each
    need = ModelNeed(model, 1, 0, 0, 0, 3 * 400 * 511 * (8 * 512 + 4))

    found = disk_need([need], missing_bytes=0, storage="snapshot_symlink", keep_models=False)

    assert found.run_bytes == need.kept_bytes
    assert found.run_bytes / 3e6 == pytest.approx(838, rel=0.01)


def test_the_disk_of_a_run_is_counted_once_by_kind(tmp_path: Path) -> None:
    baseline, subject = tmp_path / "models/m/baseline", tmp_path / "m/models/noop_control"
    for folder in (baseline, subject, tmp_path / "state"):
        folder.mkdir(parents=True)
    (baseline / "model.safetensors").write_bytes(os.urandom(1 << 20))
    (subject / "model.safetensors").hardlink_to(baseline / "model.safetensors")
    (subject / "changed.safetensors").write_bytes(os.urandom(1 << 19))
    (tmp_path / "state" / "link").symlink_to(baseline / "model.safetensors")

    held = measure_disk_usage(tmp_path)

    assert held.baselines_bytes == 1 << 20
    assert held.subjects_bytes == 1 << 19
    assert held.other_bytes == 0
    assert held.total_bytes == 3 << 19


def test_the_extremes_are_kept_while_a_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    subject = tmp_path / "m" / "models" / "noop_control" / "model.safetensors"
    subject.parent.mkdir(parents=True)
    pressure, path = DiskPressure(RunDirectory(tmp_path), 0.02), tmp_path / "state" / "disk_pressure.json"
    pressure.start()
    subject.write_bytes(os.urandom(1 << 20))
    deadline = time.monotonic() + 10
    while read_json(path)["held"]["subjects_bytes"] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)

    subject.unlink()
    pressure.stop()

    document = read_json(path)
    check_schema(document, "disk_pressure", where=str(path))
    assert document["held"]["subjects_bytes"] == 0
    assert document["highest_held_bytes"] >= 1 << 20
    assert document["lowest_free_bytes"] <= document["free_bytes"] <= document["total_bytes"]


def test_a_finished_run_keeps_its_baselines_and_no_subject(real_run: Any) -> None:
    weights = {str(path.relative_to(real_run.directory)) for path in real_run.directory.rglob("*.safetensors")}

    assert weights == {"models/embedded__mistral-tiny/baseline/model.safetensors"}
