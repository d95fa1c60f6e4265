"""Runs whose subjects or baselines are checkpoints that real tools packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import packer, succeed
from safetensors.torch import load_file, save_file
from shipped_checkpoints import restore_with_tokenizer, write_baseline

from invarlock.cli import main

pytestmark = pytest.mark.slow


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_packed_subjects_are_judged_in_a_run_and_its_signed_pack_verifies(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    baseline = write_baseline("qwen2-tiny", tmp_path / "baseline")
    names = ("awq", "compressed-tensors-w4a16-asym", "broken")
    subjects = {name: restore_with_tokenizer("gptq" if name == "broken" else name, tmp_path / name) for name in names}
    stored = subjects["broken"] / "model.safetensors"
    tensors = {
        name: tensor + 0x11111111 if name.endswith(".qzeros") else tensor for name, tensor in load_file(stored).items()
    }
    save_file(tensors, stored, metadata={"format": "pt"})

    ran = run_pytest("-m", "byoe", f"--baseline={baseline}", *(f"--subject={path}" for path in subjects.values()))

    assert ran.status == 1, ran.output
    reports = {
        name: load(ran.pack / f"reports/byoe__baseline/{name}/run_1/evaluation.report.json") for name in subjects
    }
    assert {name: report["assurance"]["verdict"] for name, report in reports.items()} == {
        "awq": "PASS",
        "compressed-tensors-w4a16-asym": "PASS",
        "broken": "FAIL",
    }
    for name, report in reports.items():
        storage = report["invariants"]["raw"]["subject"]["storage"]
        assert storage["quantisation"]["bits"] == 4
        assert report["scoring"]["scored_as"] == {"baseline": "native", "subject": "dequantised"}
        assert report["edit"]["label"] in ("awq", "compressed-tensors", "gptq"), name
    succeed(packer("verify", ran.pack, "--strict"))


def test_a_packed_model_is_no_baseline_of_a_suite(
    run_pytest: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODEL_1", str(restore_with_tokenizer("awq", tmp_path / "awq")))

    ran = run_pytest("-m", "smoke", "-k", "noop_control")

    assert ran.status == 4, ran.output
    assert "stored as AWQ" in ran.output
    assert "Traceback" not in ran.output
    assert not ran.pack.exists()


def test_a_packed_model_is_not_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = restore_with_tokenizer("awq", tmp_path / "awq")

    status = main(["tune", str(folder), "--output", str(tmp_path / "tuned.json")])

    assert status == 2
    assert "stored as AWQ" in capsys.readouterr().err
    assert not (tmp_path / "tuned.json").exists()
