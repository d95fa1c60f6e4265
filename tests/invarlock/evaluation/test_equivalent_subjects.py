"""What ``evaluate`` says of a smoothed or rotated subject, and of one in which that was done with a mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equivalent_models as made
import pytest
import torch
import transformers
from shipped_checkpoints import EMBEDDED, restore, write_baseline
from small_evaluations import evaluate_small

from invarlock.judgement.null_level import KL, SAME_ANSWERS
from invarlock.reports.derivation import compose, strip

# transformers leaves it untyped
AUTO_MODEL: Any = transformers.AutoModelForCausalLM

pytestmark = pytest.mark.slow


def evaluate(baseline: Path, subject: Path, tmp_path: Path) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the report and what was printed."""
    for source in (EMBEDDED / "tokenizer").iterdir():
        (subject / source.name).write_bytes(source.read_bytes())
    return evaluate_small(baseline, subject, tmp_path / "out")


def smoothed(model: Any) -> None:
    made.smooth(model)


def smoothed_and_rounded(model: Any) -> None:
    made.smooth(model)
    made.round_weights(model)


def rotated_and_rounded(model: Any) -> None:
    made.fold_norms(model)
    made.rotate(model)
    made.round_weights(model)


def scaled_up(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.mul_(1.05)


def subject_of(make: tuple[Callable[[Any], None], ...], tmp_path: Path) -> tuple[Path, Path]:
    """Write an embedded model and a subject of it, in bfloat16 as quantisers store them; return both folders."""
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")
    model = AUTO_MODEL.from_pretrained(baseline, dtype=torch.float32)
    with torch.no_grad():
        for step in make:
            step(model)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "subject")
    return baseline, tmp_path / "subject"


def keys_scaled_and_rounded(model: Any) -> None:
    made.scale_keys(model)
    made.round_weights(model)


@pytest.mark.parametrize("make", [smoothed, smoothed_and_rounded, rotated_and_rounded, keys_scaled_and_rounded])
def test_a_subject_in_other_weights_passes_without_a_warning(make: Callable[[Any], None], tmp_path: Path) -> None:
    code, report, output = evaluate(*subject_of((make,), tmp_path), tmp_path)

    assert code == 0, output
    assert {guard: report[guard]["violations"] for guard in report["guards"]} == {
        guard: [] for guard in report["guards"]
    }
    assert report["spectral"]["metrics"]["caps_applied"] == 0
    assert report["equivalence"]


@pytest.mark.parametrize("make", [smoothed, smoothed_and_rounded])
def test_a_scale_that_is_not_undone_is_named_with_both_matrices(make: Callable[[Any], None], tmp_path: Path) -> None:
    _, report, output = evaluate(*subject_of((make, scaled_up), tmp_path), tmp_path)

    assert [row["module"] for row in report["spectral"]["violations"]] == ["model.layers.1.mlp.down_proj.weight"]
    lines = [line for line in output.splitlines() if "model.layers.1.mlp.down_proj.weight" in line]
    assert any(line.startswith("warning: spectral warns: ") or "spectral_stable" in line for line in lines)
    assert all("model.layers.1.mlp.up_proj.weight" in line for line in lines)


def test_a_fold_that_leaves_out_a_norm_fails(tmp_path: Path) -> None:
    code, report, output = evaluate(*subject_of((lambda model: made.fold_norms(model, skip=1),), tmp_path), tmp_path)

    assert code == 1, output
    named = {row["module"] for row in report["spectral"]["violations"]}
    assert named == {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"}


def turn_and_scale_keys(model: Any, *, undone: bool) -> None:
    """Turn each two features that a rotary embedding turns together, of keys as of queries, and scale the keys.

    The canonical form knows no such turn, and finds no scale behind it; the queries undo the scale or double it.
    """
    size, angle = made.head_size(model), 1.3
    for block in made.blocks(model):
        for part, scale in ((block.k, 1.5), (block.q, 1 / 1.5 if undone else 1.5)):
            pairs = part.weight.view(-1, 2, size // 2, part.weight.shape[1])
            first, second = (pairs * scale).unbind(1)
            pairs[:, 0] = math.cos(angle) * first - math.sin(angle) * second
            pairs[:, 1] = math.sin(angle) * first + math.cos(angle) * second


def test_weights_that_no_canonical_form_explains_warn_where_no_answer_changes_and_fail_where_one_does(
    tmp_path: Path,
) -> None:
    codes, reports = {}, {}
    for undone in (True, False):
        folder = tmp_path / str(undone)
        subject = subject_of((partial(turn_and_scale_keys, undone=undone),), folder)
        codes[undone], reports[undone], _ = evaluate(*subject, folder)

    same, broken = reports[True], reports[False]
    assert codes == {True: 0, False: 1}
    assert same["fidelity"]["kl_mean"] < KL < broken["fidelity"]["kl_mean"]
    assert same["spectral"]["metrics"]["caps_applied"] == 8 > same["spectral"]["metrics"]["max_caps"]
    assert (same["spectral"]["status"], same["validation"]["spectral_stable"]) == ("warn", True)
    assert same["spectral"]["violations"][-1]["reason"].endswith(SAME_ANSWERS)
    assert compose(strip(same)) == same


def test_clipping_by_a_real_quantiser_caps_no_module(tmp_path: Path) -> None:
    baseline = write_baseline("qwen2-tiny", tmp_path / "baseline")

    code, report, output = evaluate(baseline, restore("awq", tmp_path / "subject"), tmp_path)

    assert code == 0, output
    assert report["spectral"]["violations"] == []
    # what a packed checkpoint leaves dense may be stored in another float type
    (line,) = [line for line in output.splitlines() if "invariants_pass" in line]
    assert line == "passed  invariants_pass: pass, limit no violation"
