"""A subject whose FFN outputs changed in size is scored again on the first 16 final windows of the first text alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from shipped_checkpoints import write_baseline
from small_evaluations import TEXT, evaluate_small

from invarlock.guards.variance import SCALED_WINDOWS
from invarlock.reports.verification import verify_report

DOWN = "model.layers.0.mlp.down_proj"
TWO_TEXTS = ("--text", f"austen={TEXT}", "--text", f"melville={TEXT.with_name('melville.txt.xz')}")


@pytest.mark.parametrize(("windows", "scored"), [(24, SCALED_WINDOWS), (8, 8)])
@pytest.mark.parametrize("texts", [(), TWO_TEXTS])
def test_as_many_windows_are_scored_with_scales_as_the_guard_judges(
    tmp_path: Path, windows: int, scored: int, texts: tuple[str, ...]
) -> None:
    base, subject = (write_baseline("mistral-tiny", tmp_path / name) for name in ("base", "subject"))
    tensors = load_file(subject / "model.safetensors")
    tensors[f"{DOWN}.weight"] *= 0.9
    save_file(tensors, subject / "model.safetensors", metadata={"format": "pt"})

    _, report, printed = evaluate_small(base, subject, tmp_path / "out", *texts, "--final-windows", str(windows))

    assert report, printed
    guard, final = report["variance"], report["evaluation_windows"]["final"]
    assert DOWN in guard["proposed_scales"]
    scaled = guard["raw"]["subject"]["scaled_logloss"]
    assert len(scaled) == scored
    # of the same windows: undoing a tenth of one layer moves no loss by more than a little
    assert all(abs(own - loss) < 0.1 for own, loss in zip(scaled, final["logloss"], strict=False))
    assert guard["predictive_gate"]["evaluated"]
    assert verify_report(report) == []
