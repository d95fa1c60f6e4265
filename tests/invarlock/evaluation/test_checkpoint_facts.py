from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from invarlock.checkpoints.rewriting import Replacement, Rewrite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.evaluation.checkpoint_facts import BaselineWeights, CheckpointFacts, measure_checkpoint
from invarlock.measuring.spectral import measure_spectra

TinyModels = Callable[..., Path]


def measured(base: Path, folder: Path, **tensors: Replacement) -> CheckpointFacts:
    """Return the facts of a subject that differs from the baseline in some tensors."""
    rewrite_checkpoint(read_checkpoint(base), {folder: Rewrite(tensors)})
    facts = measure_checkpoint(base, None)
    return measure_checkpoint(folder, None, BaselineWeights(base, facts))


def reordered(order: torch.Tensor, dim: int) -> Any:
    return lambda tensor: tensor.index_select(dim, order).contiguous()


def test_a_baseline_and_an_untouched_copy_have_no_changes(tiny_model: TinyModels, tmp_path: Path) -> None:
    base = tiny_model("llama")

    assert measure_checkpoint(base, None).changes == {}
    assert measured(base, tmp_path / "subject").changes == {}


def test_tensors_of_the_baseline_are_not_measured_again(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, name = tiny_model("llama"), "model.layers.1.mlp.up_proj.weight"
    before = measure_checkpoint(base, None)
    rewrite_checkpoint(
        read_checkpoint(base), {tmp_path / "subject": Rewrite({name: Replacement(name, lambda tensor: tensor * 2)})}
    )
    whole = measure_checkpoint(tmp_path / "subject", None)
    sizes: list[int] = []

    def measure(stack: torch.Tensor) -> list[Any]:
        sizes.append(len(stack))
        return measure_spectra(stack)

    monkeypatch.setattr("invarlock.measuring.spectral.measure_spectra", measure)
    facts = measure_checkpoint(tmp_path / "subject", None, BaselineWeights(base, before))

    assert sizes == [1]
    assert facts.invariants == whole.invariants
    assert facts.rows == whole.rows
    unchanged = {**before.spectral["modules"], name: facts.spectral["modules"][name]}
    assert facts.spectral["modules"] == unchanged
    assert list(facts.spectral["modules"]) == sorted(unchanged)
    for figure in ("sigma", "frobenius"):
        expected = whole.spectral["modules"][name][figure]
        assert facts.spectral["modules"][name][figure] == pytest.approx(expected, rel=1e-5)

    other = replace(before, spectral={**before.spectral, "measurement_contract_hash": "0" * 16})
    assert measure_checkpoint(tmp_path / "subject", None, BaselineWeights(base, other)).spectral == whole.spectral


def test_the_same_bytes_in_another_shape_are_measured(tiny_model: TinyModels, tmp_path: Path) -> None:
    base, name = tiny_model("llama"), "model.layers.1.mlp.up_proj.weight"
    rows, columns = read_checkpoint(base).shapes[name]
    turned = Replacement(name, lambda tensor: tensor.reshape(columns, rows), (columns, rows))

    facts = measured(base, tmp_path / "subject", **{name: turned})

    whole = measure_checkpoint(tmp_path / "subject", None)
    assert facts.spectral["modules"][name]["shape"] == [columns, rows]
    assert facts.spectral["modules"][name]["sigma"] == pytest.approx(whole.spectral["modules"][name]["sigma"], rel=1e-5)


def test_the_change_of_each_matrix_that_changed_is_measured(tiny_model: TinyModels, tmp_path: Path) -> None:
    name, norm = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
    twice = Replacement(name, lambda tensor: tensor * 2)

    facts = measured(
        tiny_model("llama"), tmp_path / "subject", **{name: twice, norm: Replacement(norm, lambda tensor: tensor * 2)}
    )

    assert list(facts.changes) == [name]
    assert facts.changes[name] == {
        "relative": pytest.approx(1.0),
        "coherent": pytest.approx(1.0),
        "flipped": 0.0,
        "edge_risk": pytest.approx(1.0, abs=0.3),
        "unit_order": None,
    }


def test_a_transposed_matrix_is_grouped_along_its_inputs(tiny_model: TinyModels, tmp_path: Path) -> None:
    # GPT-2 stores c_fc as (in, out): one scale for each output is coherent, one for each input is not
    name = "transformer.h.0.mlp.c_fc.weight"
    base = tiny_model("gpt2")
    rows, columns = read_checkpoint(base).shapes[name]
    outputs, inputs = (torch.linspace(0.5, 1.5, size) for size in (columns, rows))

    by_output = measured(base, tmp_path / "out", **{name: Replacement(name, lambda tensor: tensor * outputs)})
    by_input = measured(base, tmp_path / "in", **{name: Replacement(name, lambda tensor: tensor * inputs[:, None])})

    assert by_output.changes[name]["coherent"] == pytest.approx(1.0)
    assert by_input.changes[name]["coherent"] < 0.3


def test_each_expert_of_a_stack_is_a_matrix(tmp_path: Path) -> None:
    stack = "model.layers.0.mlp.experts.down_proj"
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "mixtral"}')
    save_file({stack: torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))}, base / "model.safetensors")

    def second_doubled(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[1] *= 2
        return tensor

    changes = measured(base, tmp_path / "subject", **{stack: Replacement(stack, second_doubled)}).changes

    assert [changes[f"{stack}[{expert}]"]["relative"] for expert in range(3)] == [0.0, 1.0, 0.0]


def test_hidden_units_moved_in_the_same_way_have_one_order(tiny_model: TinyModels, tmp_path: Path) -> None:
    base, block = tiny_model("llama"), "model.layers.0.mlp"
    units = read_checkpoint(base).shapes[f"{block}.up_proj.weight"][0]
    order = torch.randperm(units, generator=torch.Generator().manual_seed(1))
    dims = {f"{block}.{name}_proj.weight": dim for name, dim in (("gate", 0), ("up", 0), ("down", 1))}
    moved = {name: Replacement(name, reordered(order, dim)) for name, dim in dims.items()}

    changes = measured(base, tmp_path / "subject", **moved).changes

    orders = {changes[name]["unit_order"] for name in dims}
    assert len(orders) == 1
    assert None not in orders


def test_units_with_biases_have_no_order_that_is_trusted(tiny_model: TinyModels, tmp_path: Path) -> None:
    base, name = tiny_model("gpt2"), "transformer.h.0.mlp.c_fc.weight"
    order = torch.randperm(read_checkpoint(base).shapes[name][1], generator=torch.Generator().manual_seed(1))

    changes = measured(base, tmp_path / "subject", **{name: Replacement(name, reordered(order, 1))}).changes

    assert name.replace("weight", "bias") in load_file(base / "model.safetensors")
    assert changes[name]["unit_order"] is None
