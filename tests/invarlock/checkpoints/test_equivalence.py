from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equivalent_models as made
import pytest
import torch
from equivalent_models import TRAINED, load
from hypothesis import given
from hypothesis import strategies as st

from invarlock.checkpoints.equivalence.anatomy import Site
from invarlock.checkpoints.equivalence.finding import find_equivalence
from invarlock.checkpoints.equivalence.orders import find_order
from invarlock.checkpoints.equivalence.rotation import find_rotation
from invarlock.checkpoints.equivalence.sides import Sides
from invarlock.checkpoints.equivalence.steps import Scale
from invarlock.checkpoints.storage_format import open_checkpoint

Make = Callable[[Any], None]
RANDOM = ("gpt2", "gemma", "phi")


def folded_and_rotated(model: Any) -> None:
    made.fold_norms(model)
    made.rotate(model)


SYMMETRIES: dict[str, tuple[Make, set[str]]] = {
    "folded": (made.fold_norms, {"norms"}),
    "smoothed": (made.smooth, {"norms", "value_scales", "unit_scales"}),
    "rotated": (folded_and_rotated, {"norms", "rotation"}),
    "values rotated": (made.rotate_values, {"value_rotations"}),
    "keys scaled": (made.scale_keys, {"key_scales"}),
    "units": (made.shuffle_units, {"units"}),
    "heads": (made.shuffle_heads, {"heads"}),
    "experts": (made.shuffle_experts, {"experts"}),
}
CASES = [
    (name, symmetry)
    for name in (*TRAINED, *RANDOM)
    for symmetry in SYMMETRIES
    # GPT-2's head is its embedding, and only Mixtral has experts
    if not (symmetry == "rotated" and name == "gpt2") and (symmetry != "experts" or name == "mixtral-tiny")
]


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            load(name).save_pretrained(folders[name])
        return folders[name]

    return folder


def compared(base: Path, model: Any, folder: Path) -> Sides:
    model.save_pretrained(folder)
    return find_equivalence(open_checkpoint(base), open_checkpoint(folder))


def differences(sides: Sides) -> dict[str, float]:
    """Return |S - B| / |B| of every matrix in the form in which both are compared."""
    found = {}
    for name, shape in sides.base.files.shapes.items():
        sites = [Site(name, expert) for expert in range(shape[0])] if len(shape) == 3 else [Site(name)]
        for site in sites if len(shape) > 1 else []:
            base, own = sides.base_matrix(site), sides.own_matrix(site)
            found[site.label] = float(torch.linalg.vector_norm(own - base) / torch.linalg.vector_norm(base))
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(24)[None] * 7 % model.config.vocab_size).logits
        return found


@pytest.mark.parametrize(("name", "symmetry"), CASES)
def test_the_same_function_has_the_same_form(
    name: str, symmetry: str, baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    base = baselines(name)
    model = load(name)
    before = logits(model)

    SYMMETRIES[symmetry][0](model)
    sides = compared(base, model, tmp_path)

    torch.testing.assert_close(logits(model), before, rtol=2e-3, atol=2e-3)
    assert max(differences(sides).values()) < 1e-4
    kinds = {one.kind for one in sides.removed}
    ungated = {"unit_scales"} if name in ("gpt2", "phi") else set()
    assert kinds - {"untied_head"} == SYMMETRIES[symmetry][1] - ungated
    assert not sides.skipped


def with_scaled_keys(baseline: Path, config: dict[str, Any], folder: Path) -> Sides:
    """Compare mistral-tiny, with some values of its config changed, with a copy whose keys are scaled."""
    model = load("mistral-tiny")
    made.scale_keys(model)
    model.save_pretrained(folder / "own")
    shutil.copytree(baseline, folder / "base")
    path = folder / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return find_equivalence(open_checkpoint(folder / "base"), open_checkpoint(folder / "own"))


@pytest.mark.parametrize("config", [{"num_attention_heads": None, "head_dim": None}, {"head_dim": 15}])
def test_heads_that_a_config_does_not_tell_are_left_alone(
    config: dict[str, Any], baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    assert with_scaled_keys(baselines("mistral-tiny"), config, tmp_path).removed == ()


@pytest.mark.parametrize("where", ["partial_rotary_factor", "rope_parameters", "rope_scaling"])
def test_where_a_part_of_a_head_is_turned_each_head_has_one_scale(
    where: str, baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    share: Any = 0.5 if where == "partial_rotary_factor" else {"partial_rotary_factor": 0.5}

    sides = with_scaled_keys(baselines("mistral-tiny"), {where: share}, tmp_path)

    assert max(change for name, change in differences(sides).items() if "k_proj" in name) > 0.1


def test_scales_that_a_norm_of_queries_and_keys_takes_away_are_not_looked_for(
    baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load("qwen3")

    made.scale_keys(model)
    sides = compared(baselines("qwen3"), model, tmp_path)

    assert sides.removed == ()
    assert max(differences(sides).values()) > 0.1


@pytest.mark.parametrize(("name", "symmetry"), CASES)
def test_rounding_after_it_is_what_is_left(
    name: str, symmetry: str, baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load(name)

    SYMMETRIES[symmetry][0](model)
    made.round_weights(model)
    sides = compared(baselines(name), model, tmp_path)

    assert max(differences(sides).values()) < 0.3
    assert SYMMETRIES[symmetry][1] - {"unit_scales"} <= {one.kind for one in sides.removed}


def prune(model: Any) -> None:
    with torch.no_grad():
        for block in made.blocks(model):
            for part in (block.v, block.o, *(one for ffn in block.feedforwards for one in (ffn.up, ffn.down))):
                part.weight.mul_(part.weight.abs() > part.weight.abs().median())


def zero_units(model: Any) -> None:
    with torch.no_grad():
        for block in made.blocks(model):
            block.feedforwards[0].up.weight[:8] = 0
            block.feedforwards[0].down.weight[:, :8] = 0


def scale_up(model: Any) -> None:
    up = next(made.blocks(model)).feedforwards[0].up
    up.scale_outputs(torch.full((len(up.weight),), 1.05))


def scale_norm(model: Any) -> None:
    with torch.no_grad():
        next(made.blocks(model)).norms[0][0].weight.mul_(1.5)


def break_tie(model: Any) -> None:
    made.untie(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)


def break_values(model: Any) -> None:
    block = next(made.blocks(model))
    block.v.turn_outputs(made.orthogonal(len(block.v.weight), 1))


@pytest.mark.parametrize(
    "change", [lambda model: None, made.round_weights, prune, zero_units, scale_up, scale_norm, break_tie, break_values]
)
@pytest.mark.parametrize("name", ["qwen2-tiny", "phi"])
def test_what_is_not_a_symmetry_is_left_unchanged(
    change: Make, name: str, baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load(name)

    change(model)
    sides = compared(baselines(name), model, tmp_path)

    assert (sides.removed, sides.skipped) == ((), ())
    assert (dict(sides.own_steps), dict(sides.base_steps), dict(sides.own_sources)) == ({}, {}, {})


def test_all_symmetries_at_once_are_undone(baselines: Callable[[str], Path], tmp_path: Path) -> None:
    model = load("mixtral-tiny")
    before = logits(model)

    for change in (
        made.shuffle_units, made.shuffle_heads, made.shuffle_experts, made.rotate_values, made.scale_keys,
        made.fold_norms,
    ):  # fmt: skip
        change(model)
    made.rotate(model)
    for block in made.blocks(model):
        for ffn in block.feedforwards:
            made.scale_units(ffn, torch.linspace(0.5, 2.0, len(ffn.up.weight)))
    sides = compared(baselines("mixtral-tiny"), model, tmp_path)

    torch.testing.assert_close(logits(model), before, rtol=2e-3, atol=2e-3)
    assert max(differences(sides).values()) < 1e-4
    assert {one.kind for one in sides.removed} == {
        "norms", "rotation", "units", "heads", "experts", "value_rotations", "key_scales", "unit_scales"
    }  # fmt: skip


def test_a_rotation_that_layer_norm_blocks_is_reported(baselines: Callable[[str], Path], tmp_path: Path) -> None:
    model = load("phi")

    made.fold_norms(model)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding.copy_(embedding @ made.orthogonal(embedding.shape[1], 5))
    sides = compared(baselines("phi"), model, tmp_path)

    assert [one.kind for one in sides.skipped] == ["rotation"]
    assert "rotation" not in {one.kind for one in sides.removed}


def test_scales_that_an_activation_blocks_are_reported(baselines: Callable[[str], Path], tmp_path: Path) -> None:
    model = load("gpt2")

    for block in made.blocks(model):
        made.scale_units(block.feedforwards[0], torch.linspace(0.5, 2.0, len(block.feedforwards[0].up.weight)))
    sides = compared(baselines("gpt2"), model, tmp_path)

    assert [one.kind for one in sides.skipped] == ["unit_scales"]
    assert sides.removed == ()


def forget_value_bias(model: Any) -> None:
    for block in made.blocks(model):
        bias = block.v.bias.clone()
        made.scale_values(model, block, torch.linspace(0.4, 2.5, len(block.v.weight)))
        block.v.bias.copy_(bias)


def forget_key_bias(model: Any) -> None:
    biases = [block.k.bias.clone() for block in made.blocks(model)]
    made.scale_keys(model)
    for block, bias in zip(made.blocks(model), biases, strict=True):
        block.k.bias.copy_(bias)


def forget_turned_value_bias(model: Any) -> None:
    biases = [block.v.bias.clone() for block in made.blocks(model)]
    made.rotate_values(model)
    for block, bias in zip(made.blocks(model), biases, strict=True):
        block.v.bias.copy_(bias)


def test_heads_whose_values_are_turned_and_biased_are_put_in_order(
    baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load("qwen2-tiny")

    made.shuffle_heads(model)
    made.rotate_values(model)
    sides = compared(baselines("qwen2-tiny"), model, tmp_path)

    assert max(differences(sides).values()) < 1e-4
    assert {one.kind for one in sides.removed} == {"heads", "value_rotations"}
    assert not sides.skipped


def test_heads_in_another_order_than_their_value_biases_stay_where_they_are(
    baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load("qwen2-tiny")
    biases = [block.v.bias.clone() for block in made.blocks(model)]

    made.shuffle_heads(model)
    moved = [
        f"model.layers.{number}.self_attn.o_proj.weight"
        for number, (block, bias) in enumerate(zip(made.blocks(model), biases, strict=True))
        if not torch.equal(block.v.bias, bias)
    ]
    for block, bias in zip(made.blocks(model), biases, strict=True):
        block.v.bias.data.copy_(bias)
    sides = compared(baselines("qwen2-tiny"), model, tmp_path)

    assert moved
    assert {one.kind for one in sides.skipped} == {"heads"}
    assert not set(moved) & {module for one in sides.removed for module in one.modules}


def forget_unit_bias(model: Any) -> None:
    biases = [block.feedforwards[0].up.bias.clone() for block in made.blocks(model)]
    made.shuffle_units(model)
    for block, bias in zip(made.blocks(model), biases, strict=True):
        block.feedforwards[0].up.bias.copy_(bias)


@pytest.mark.parametrize(
    ("name", "mistake", "kind"),
    [
        ("qwen2-tiny", forget_value_bias, "value_scales"),
        ("qwen2-tiny", forget_turned_value_bias, "value_rotations"),
        ("qwen2-tiny", forget_key_bias, "key_scales"),
        ("gpt2", forget_key_bias, "key_scales"),
        ("phi", forget_unit_bias, "units"),
        ("gpt2", forget_unit_bias, "units"),
    ],
)
def test_a_step_that_left_out_a_bias_is_not_undone(
    name: str, mistake: Make, kind: str, baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load(name)

    with torch.no_grad():
        mistake(model)
    sides = compared(baselines(name), model, tmp_path)

    assert kind in {one.kind for one in sides.skipped}
    assert kind not in {one.kind for one in sides.removed}


def mistaken_norm(model: Any) -> None:
    made.fold_norms(model, skip=1)


def mistaken_scale(model: Any) -> None:
    made.smooth(model)
    scale_up(model)


def mistaken_query(model: Any) -> None:
    """Scale the keys of all heads, and one query head too little."""
    made.scale_keys(model)
    block = next(made.blocks(model))
    with torch.no_grad():
        block.q.weight[: made.head_size(model)] *= 1.2


def mistaken_pairs(model: Any) -> None:
    """Scale neighbouring features of keys and queries together, which no rotary embedding turns together."""
    made.scale_keys(model)
    block, size = next(made.blocks(model)), made.head_size(model)
    factors = torch.linspace(0.7, 1.4, size // 2).repeat_interleave(2)
    block.k.scale_outputs(factors.repeat(len(block.k.weight) // size))
    block.q.scale_outputs(1 / factors.repeat(len(block.q.weight) // size))


def mistaken_rotation(model: Any) -> None:
    folded_and_rotated(model)
    with torch.no_grad():
        block = next(made.blocks(model))
        block.q.weight.copy_(block.q.weight @ made.orthogonal(block.q.weight.shape[1], 9))


@pytest.mark.parametrize(
    ("mistake", "modules", "least"),
    [
        (mistaken_norm, {f"self_attn.{part}_proj" for part in "qkv"}, 0.05),
        (mistaken_scale, {"mlp.down_proj"}, 0.04),
        (mistaken_query, {"self_attn.q_proj"}, 0.05),
        (mistaken_pairs, {"self_attn.q_proj", "self_attn.k_proj"}, 0.05),
        (mistaken_rotation, {"self_attn.q_proj"}, 0.5),
    ],
)
def test_a_mistake_is_all_that_is_left(
    mistake: Make, modules: set[str], least: float, baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load("mistral-tiny")

    mistake(model)
    left = differences(compared(baselines("mistral-tiny"), model, tmp_path))

    wrong = {f"model.layers.0.{module}.weight" for module in modules}
    assert {name for name, change in left.items() if change > 1e-4} == wrong
    assert min(left[name] for name in wrong) > least


@given(st.integers(0, 2**32), st.integers(2, 40), st.floats(0, 0.1))
def test_an_order_is_found_under_noise(seed: int, rows: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, 64, generator=generator)
    order = torch.randperm(rows, generator=generator)
    own = torch.empty_like(base)
    own[order] = base * (0.5 + torch.rand(rows, 1, generator=generator))
    own += noise * torch.randn(rows, 64, generator=generator) * 0.5

    found = find_order(base, own)

    assert (torch.arange(rows) if found is None else found).tolist() == order.tolist()


@given(st.integers(0, 2**32), st.integers(2, 20))
def test_a_rotation_is_found_from_more_points_than_features(seed: int, features: int) -> None:
    base = torch.randn(3 * features, features, generator=torch.Generator().manual_seed(seed))
    rotation = made.orthogonal(features, seed % 2**31)

    found = find_rotation([(base, base @ rotation)])

    torch.testing.assert_close(found, rotation.mT, rtol=1e-3, atol=1e-4)


def test_a_matrix_is_the_same_on_both_sides_only_if_its_numbers_are_and_no_step_is_on_it(
    baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    attention, up = Site("model.layers.0.self_attn.q_proj.weight"), Site("model.layers.0.mlp.up_proj.weight")
    model = load("qwen2-tiny")
    with torch.no_grad():
        model.get_parameter(up.tensor)[3, 5] += 1
    model.save_pretrained(tmp_path)
    sides = Sides(open_checkpoint(baselines("qwen2-tiny")), open_checkpoint(tmp_path))

    assert sides.same(attention)
    assert not sides.same(up)
    assert not sides.same(attention, up)
    assert not sides.with_steps({attention: (Scale("outputs", torch.ones(1)),)}).same(attention)
    assert not sides.with_own_sources({attention: attention}).same(attention)


def test_rows_are_read_some_at_a_time_as_they_are_read_together(
    baselines: Callable[[str], Path], tmp_path: Path
) -> None:
    site = Site("model.embed_tokens.weight")
    model = load("qwen2-tiny")
    with torch.no_grad():
        model.get_parameter(site.tensor)[2, 3] = float("nan")
    model.save_pretrained(tmp_path)
    stored = Sides(open_checkpoint(baselines("qwen2-tiny")), open_checkpoint(tmp_path))
    stepped = stored.with_steps({site: (Scale("inputs", torch.full((stored.pair(site)[0].shape[1],), 2.0)),)})

    for sides in (stored, stepped):
        parts = [torch.cat(side) for side in zip(*sides.slices(site, 7), strict=True)]

        assert all(torch.equal(part, whole) for part, whole in zip(parts, sides.pair(site), strict=True))
