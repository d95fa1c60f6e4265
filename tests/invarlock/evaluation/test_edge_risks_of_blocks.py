"""What ``rmt`` says of an embedded model with real weights that is rounded, pruned, or broken in its last block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped_checkpoints import EMBEDDED, write_baseline

from invarlock.catalog.models import read_models
from invarlock.edits.magnitude_prune import prune_magnitude
from invarlock.edits.quant_rtn import quantize_rtn
from invarlock.evaluation.activations import measure_activations
from invarlock.evaluation.comparison import draw_runs
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.text import read_embedded_text
from invarlock.evaluation.windows import Tokens
from invarlock.guards.rmt import derive_rmt
from invarlock.reports.policy import resolve_policy

POLICY = resolve_policy("balanced", "dev", {})["rmt"]
LAST = "model.layers.3."
Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_baseline("mistral-tiny", tmp_path_factory.mktemp("baseline") / "mistral-tiny")


@pytest.fixture(scope="module")
def tokens(baseline: Path) -> Tokens:
    text = read_models(EMBEDDED.parent / "models.toml").suites["smoke"].text
    assert text is not None
    assert text.source is not None
    assert text.sha256 is not None
    source = read_embedded_text(EMBEDDED.parent / text.source, text.sha256)
    return draw_runs(baseline, source, WindowPlan(128, 2, 8, 0, 8), [1])[1].final.tokens


def judge(baseline: Path, tokens: Tokens, parts: tuple[str, ...], change: Change) -> Any:
    """Return what ``rmt`` derives if the matrices whose names end with some part are changed."""
    model = load_model(baseline, Placement("cpu"))
    before = measure_activations(model, tokens).rmt
    changed = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(tuple(f"{part}_proj.weight" for part in parts)):
                weight.copy_(change(weight))
                changed += 1
    assert changed
    return derive_rmt({"baseline": before, "subject": measure_activations(model, tokens).rmt}, POLICY)


def rank_one(weight: torch.Tensor) -> torch.Tensor:
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    return s.norm() * torch.outer(u[:, 0], v[0])


@pytest.mark.parametrize(
    ("parts", "change"),
    [
        (("",), lambda weight: quantize_rtn(weight, 4, 32)),
        (("gate", "up", "down"), lambda weight: prune_magnitude(weight, 0.24)),
        ((f"{LAST}self_attn.o",), lambda weight: quantize_rtn(weight, 4, 32)),
    ],
)
def test_rounded_and_pruned_weights_pass(
    parts: tuple[str, ...], change: Change, baseline: Path, tokens: Tokens
) -> None:
    block = judge(baseline, tokens, parts, change)

    assert (block["status"], block["violations"]) == ("pass", [])


@pytest.mark.parametrize("part", ["self_attn.v", "self_attn.o", "mlp.up", "mlp.down"])
@pytest.mark.parametrize("change", [torch.zeros_like, rank_one])
def test_a_layer_of_the_last_block_that_gives_nothing_or_one_direction_fails(
    part: str, change: Change, baseline: Path, tokens: Tokens
) -> None:
    block = judge(baseline, tokens, (f"{LAST}{part}",), change)

    assert block["status"] == "fail"
    assert f"{LAST}{part}_proj" in block["metrics"]["violating_layers"]
    assert block["metrics"]["violating_families"] == []


def test_weights_of_two_bits_in_every_block_fail_as_families(baseline: Path, tokens: Tokens) -> None:
    block = judge(baseline, tokens, ("",), lambda weight: quantize_rtn(weight, 2, 32))

    assert (block["status"], block["metrics"]["violating_families"]) == ("fail", ["family attn", "family ffn"])
