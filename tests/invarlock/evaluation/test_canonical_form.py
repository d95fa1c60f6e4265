from __future__ import annotations

import copy
import json
import lzma
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import equivalent_models as made
import pytest
import torch
from equivalent_models import EMBEDDED, TRAINED, load
from safetensors.torch import load_file, save_file

from invarlock.edits.packed_rtn import PACKING
from invarlock.evaluation.canonical_form import measure_canonical_form, needs_canonical_form
from invarlock.evaluation.checkpoint_facts import BaselineWeights, measure_checkpoint
from invarlock.evaluation.documents import equivalence
from invarlock.evaluation.pair import evaluate_pair
from invarlock.evaluation.pair_request import PairRequest
from invarlock.faults.injection import inject_fault
from invarlock.guards.invariants import derive_invariants
from invarlock.guards.spectral import derive_spectral
from invarlock.reports.policy import resolve_policy
from invarlock.reports.verification import verify_report

MODELS = (*TRAINED, "gpt2", "gemma", "phi")
Make = Callable[[Any], None]
Folders = Callable[[str], Path]


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    for file in (EMBEDDED / "tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = save(load(name), tmp_path_factory.mktemp(name))
        return folders[name]

    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "austen.txt"
    path.write_bytes(lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes())[:200_000])
    return path


def judged(base: Path, subject: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what the guards on weights say, and the report's equivalence."""
    before = measure_checkpoint(base, None)
    after = measure_checkpoint(subject, None, BaselineWeights(base, before))
    form = measure_canonical_form(base, subject, before, after)
    if form is not None and form.changes:
        after = replace(after, canonical={**form.spectra, "changes": form.changes})
    raw = after.against(before.by_guard)
    found = equivalence(form)
    kinds = {row["kind"] for row in found.get("equivalence", ())}
    policy = resolve_policy("balanced", "ci", {})
    spectral = derive_spectral(raw["spectral"], policy["spectral"])
    return spectral, derive_invariants(raw["invariants"], None, kinds), found


def rotated(model: Any) -> None:
    made.fold_norms(model)
    made.rotate(model)


SYMMETRIES: dict[str, Make] = {
    "folded": made.fold_norms,
    "smoothed": made.smooth,
    "rotated": rotated,
    "values rotated": made.rotate_values,
    "units": made.shuffle_units,
    "heads": made.shuffle_heads,
    "experts": made.shuffle_experts,
}
CASES = [
    (name, symmetry)
    for name in MODELS
    for symmetry in SYMMETRIES
    # GPT-2's head is its embedding, and only Mixtral has experts
    if not (symmetry == "rotated" and name == "gpt2") and (symmetry != "experts" or name == "mixtral-tiny")
]


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("name", "symmetry"), CASES)
def test_no_guard_on_weights_signals(
    name: str, symmetry: str, rounded: bool, baselines: Folders, tmp_path: Path
) -> None:
    model = load(name)

    SYMMETRIES[symmetry](model)
    if rounded:
        made.round_weights(model)
    spectral, invariants, found = judged(baselines(name), save(model, tmp_path))

    assert spectral["violations"] == []
    assert invariants["violations"] == []
    assert spectral["metrics"]["max_abs_log_ratio"] < (0.05 if rounded else 1e-3)
    assert found["equivalence"]


def scale_up(model: Any) -> None:
    up = next(made.blocks(model)).feedforwards[0].up
    up.scale_outputs(torch.full((len(up.weight),), 1.05))


def smoothed_with_a_scale_left(model: Any) -> None:
    made.smooth(model)
    made.round_weights(model)
    scale_up(model)


def folded_but_for_one(model: Any) -> None:
    made.fold_norms(model, skip=1)


def rotated_but_for_one(model: Any) -> None:
    rotated(model)
    query = next(made.blocks(model)).q.weight
    query.copy_(query @ made.orthogonal(query.shape[1], 9))


def value_turned_on_one_side(model: Any) -> None:
    made.rotate_values(model)
    block = next(made.blocks(model))
    block.v.turn_outputs(made.orthogonal(len(block.v.weight), 11))


def untied_with_another_head(model: Any) -> None:
    made.fold_norms(model)
    model.lm_head.weight.data.mul_(1.05)


@pytest.mark.parametrize(
    ("name", "mistake", "module"),
    [
        ("mistral-tiny", scale_up, "layers.0.mlp.up_proj"),
        ("mistral-tiny", smoothed_with_a_scale_left, "layers.0.mlp.down_proj"),
        ("mistral-tiny", folded_but_for_one, "layers.0.self_attn.q_proj"),
        ("mistral-tiny", rotated_but_for_one, "layers.0.self_attn.q_proj"),
        ("qwen2-tiny", rotated_but_for_one, "layers.0.self_attn.q_proj"),
        ("qwen2-tiny", untied_with_another_head, "lm_head"),
        ("gemma", rotated_but_for_one, "layers.0.self_attn.q_proj"),
        ("gpt2", value_turned_on_one_side, "h.0.attn.c_attn"),
        ("phi", folded_but_for_one, "layers.0.self_attn.q_proj"),
    ],
)
def test_a_mistake_is_named(name: str, mistake: Make, module: str, baselines: Folders, tmp_path: Path) -> None:
    model = load(name)

    with torch.no_grad():
        mistake(model)
    spectral, _, _ = judged(baselines(name), save(model, tmp_path))

    named = {row["module"] for row in spectral["violations"]}
    assert any(module in one for one in named)
    assert len(named) <= 8


def stored_apart(model: Any, bits: int) -> None:
    """Give a model with a tied head a head of its own: the embedding rounded in groups of 32."""
    made.untie(model)
    weight = model.lm_head.weight.data
    groups = weight.reshape(len(weight), -1, 32)
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    weight.copy_(((groups / scale).round() * scale).reshape(weight.shape))
    model.config.tie_word_embeddings = False


@pytest.mark.parametrize(("bits", "same"), [(8, True), (4, False)])
def test_a_dense_head_stored_apart_is_the_embedding_if_it_was_rounded_to_eight_bits(
    bits: int, baselines: Folders, tmp_path: Path, *, same: bool
) -> None:
    model = load("qwen2-tiny")
    with torch.no_grad():
        stored_apart(model, bits)

    spectral, invariants, removed = judged(baselines("qwen2-tiny"), save(model, tmp_path))

    kinds = [row["kind"] for row in removed.get("equivalence", [])]
    assert kinds == (["untied_head"] if same else [])
    assert (spectral["passed"], invariants["passed"]) == (same, same)


def test_the_fault_of_a_broken_tie_is_no_rounding(baselines: Folders, tmp_path: Path) -> None:
    inject_fault("weight_tying_break", baselines("qwen2-tiny"), tmp_path / "subject", {})

    _, invariants, removed = judged(baselines("qwen2-tiny"), tmp_path / "subject")

    assert "equivalence" not in removed
    assert any(row["kind"] == "tie" and row["severity"] == "fail" for row in invariants["violations"])


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_packed_head_stored_apart_is_the_embedding_unless_it_is_broken(
    factor: float, baselines: Folders, tmp_path: Path
) -> None:
    model = load("qwen2-tiny")
    made.untie(model)
    model.config.tie_word_embeddings = False
    apart = save(model, tmp_path / "apart")
    tensors = load_file(apart / "model.safetensors")
    parts = PACKING.pack(tensors.pop("lm_head.weight"), {"bits": 4, "group_size": 32})
    tensors |= {f"lm_head.{name}": part * factor if name == "weight_scale" else part for name, part in parts.items()}
    save_file(tensors, apart / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((apart / "config.json").read_bytes())
    stated = PACKING.config(["re:.*_proj$"], {"bits": 4, "group_size": 32})
    (apart / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))

    spectral, invariants, removed = judged(baselines("qwen2-tiny"), apart)

    healthy = factor == 1.0
    assert ([row["kind"] for row in removed.get("equivalence", [])] == ["untied_head"]) is healthy
    assert (spectral["passed"], invariants["passed"]) == (healthy, healthy)


def test_equal_and_rounded_checkpoints_are_compared_as_they_are_stored(baselines: Folders, tmp_path: Path) -> None:
    model = load("mistral-tiny")
    same = measure_checkpoint(baselines("mistral-tiny"), None)

    made.round_weights(model)
    folder = save(model, tmp_path)
    other = measure_checkpoint(folder, None, BaselineWeights(baselines("mistral-tiny"), same))

    assert not needs_canonical_form(same, same)
    assert not needs_canonical_form(same, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "kinds"),
    [
        ("mistral-tiny", rotated, {"norms", "rotation"}),
        ("qwen2-tiny", rotated, {"norms", "rotation", "untied_head"}),
        ("mixtral-tiny", made.shuffle_experts, {"experts"}),
        ("mixtral-tiny", made.rotate_values, {"value_rotations"}),
    ],
)
def test_a_report_says_what_was_removed(
    name: str, change: Make, kinds: set[str], baselines: Folders, text: Path, tmp_path: Path
) -> None:
    model = load(name)
    change(model)
    subject = save(model, tmp_path / "subject")

    request = PairRequest(
        baseline=baselines(name), subject=subject, text=text, seq_len=64, preview_windows=8, final_windows=16
    )
    report: Any = evaluate_pair(request, tmp_path / "out")

    assert report["assurance"]["verdict"] == "PASS"
    assert {guard: report[guard]["status"] for guard in report["guards"]} == dict.fromkeys(report["guards"], "pass")
    assert {row["kind"] for row in report["equivalence"]} == kinds
    assert report["primary_metric"]["ratio_vs_baseline"] == pytest.approx(1, abs=1e-4)
    assert verify_report(report) == []
    assert "Removed before comparing weights" in (tmp_path / "out" / "evaluation.html").read_text()
    forged = copy.deepcopy(report)
    del forged["equivalence"]
    assert verify_report(forged)
    hidden = json.loads(json.dumps(report))
    del hidden["spectral"]["raw"]["canonical"]
    assert verify_report(hidden)
