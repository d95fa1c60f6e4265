"""A model that transformers 5 saved as it has it in memory is read as the same tensors as the model that it was."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from causal_models import BUILT, tiny_causal_model, tiny_multimodal_model
from gguf_architectures import write_small_model
from safetensors.torch import load_file, save_file
from shipped_checkpoints import SHIPPED, restore, write_baseline
from transformers import AutoModelForCausalLM

from invarlock.checkpoints.equivalence.layouts import MOST_EXPERTS, other_names
from invarlock.checkpoints.equivalence.places import find_places
from invarlock.checkpoints.storage_format import open_checkpoint

Tensors = dict[str, torch.Tensor]

STACKS, APART = "model.layers.0.mlp.experts.", "model.layers.0.block_sparse_moe.experts."
ARCHIVE = SHIPPED / "gguf-architectures.tar.xz"
# Stacks of experts with and without gates, other names alone, and tensors that are joined or cut.
QUICK = (
    "deepseek_v2", "gpt_neox", "granitemoe", "hrm_text", "jamba", "lara_mini", "longcat_flash", "mixtral", "nemotron_h",
    "olmo_hybrid", "olmoe", "qwen2_moe", "qwen3_moe",
)  # fmt: skip
# transformers interleaves or dequantises the experts of these while it loads them, which is not read yet.
NOT_READ = ("inkling2_loop_text", "inkling2_text")


def save_both(model: Any, folder: Path) -> tuple[Path, Path]:
    """Save a model as its family is stored, and as it is in memory; return both folders."""
    stored, memory = folder / "stored", folder / "memory"
    model.save_pretrained(stored)
    model.save_pretrained(memory, save_original_format=False)
    return stored, memory


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Return the embedded Mixtral with a tensor for each expert, and with stacks of experts."""
    stored = write_baseline("mixtral-tiny", tmp_path / "stored")
    load: Any = AutoModelForCausalLM.from_pretrained  # transformers gives it no type
    load(stored, dtype="auto").save_pretrained(tmp_path / "memory", save_original_format=False)
    return stored, tmp_path / "memory"


def edit(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """Change the tensors of a checkpoint."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    return folder


def assert_same_both_ways(stored: Path, memory: Path) -> None:
    for base, own in ((stored, memory), (memory, stored)):
        before, after = open_checkpoint(base), open_checkpoint(own, base)
        assert after.files.shapes == before.files.shapes
        assert {name: entry.dtype for name, entry in after.files.entries.items()} == {
            name: entry.dtype for name, entry in before.files.entries.items()
        }
        for name in before.files.entries:
            assert torch.equal(after.read(name).nan_to_num(), before.read(name).nan_to_num()), name


@pytest.mark.parametrize(
    "model_type",
    [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in BUILT if one not in (*QUICK, *NOT_READ))],
)
def test_both_forms_of_a_model_are_the_same_tensors(model_type: str, tmp_path: Path) -> None:
    torch.manual_seed(0)

    assert_same_both_ways(*save_both(tiny_causal_model(model_type), tmp_path))


@pytest.mark.parametrize("model_type", ["gemma3", "glm4v_moe", "llava", "qwen2_5_vl", "qwen3_5_moe"])
def test_both_forms_of_a_multimodal_model_are_the_same_tensors(model_type: str, tmp_path: Path) -> None:
    torch.manual_seed(0)

    assert_same_both_ways(*save_both(tiny_multimodal_model(model_type), tmp_path))


def test_the_report_names_the_stacks_and_the_router(both: tuple[Path, Path]) -> None:
    stored, memory = both
    named = [f"model.layers.{block}.mlp.{part}" for block in (0, 1) for part in ("experts.down_proj", "gate.weight")]

    found = [other_names(open_checkpoint(own, base)) for own, base in ((memory, stored), (stored, memory))]

    assert found[0] == found[1]
    assert set(named) < set(found[0])
    assert len(found[0]) == 6
    assert other_names(open_checkpoint(stored, stored)) == []


def test_a_model_without_its_head_is_read_too(both: tuple[Path, Path]) -> None:
    stored, memory = both

    def shorten(tensors: Tensors) -> None:
        for name in [*tensors]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit(memory, shorten)

    before, after = open_checkpoint(stored), open_checkpoint(memory, stored)

    assert after.files.shapes == before.files.shapes
    assert all(torch.equal(after.read(name), before.read(name)) for name in before.files.entries)


def test_more_experts_are_numbered_like_the_others(both: tuple[Path, Path]) -> None:
    stored, memory = both

    def add(tensors: Tensors) -> None:
        for part in ("gate_up_proj", "down_proj"):
            tensors[STACKS + part] = torch.cat((tensors[STACKS + part], tensors[STACKS + part][:1]))

    checkpoint = open_checkpoint(edit(memory, add), stored)

    more = checkpoint.files.entries.keys() - open_checkpoint(stored).files.entries.keys()
    assert more == {f"{APART}4.{part}.weight" for part in ("w1", "w2", "w3")}
    assert torch.equal(checkpoint.read(f"{APART}4.w3.weight"), checkpoint.read(f"{APART}0.w3.weight"))


def test_a_stack_of_which_an_expert_lacks_a_part_is_missing(both: tuple[Path, Path]) -> None:
    stored, memory = both

    checkpoint = open_checkpoint(edit(stored, lambda tensors: tensors.pop(f"{APART}1.w3.weight")), memory)

    names = checkpoint.files.entries.keys()
    assert f"{STACKS}gate_up_proj" not in names
    assert f"{APART}1.w1.weight" in names
    assert f"{STACKS}down_proj" in names


def test_experts_with_a_gap_are_no_stack(both: tuple[Path, Path]) -> None:
    stored, memory = both

    def renumber(tensors: Tensors) -> None:
        for part in ("w1", "w2", "w3"):
            tensors[f"{APART}7.{part}.weight"] = tensors.pop(f"{APART}2.{part}.weight")

    checkpoint = open_checkpoint(edit(stored, renumber), memory)

    assert {f"{STACKS}gate_up_proj", f"{STACKS}down_proj"}.isdisjoint(checkpoint.files.entries)


def test_a_stack_beside_the_experts_that_it_holds_hides_none(both: tuple[Path, Path]) -> None:
    stored, memory = both
    apart = {name: tensor * 2 for name, tensor in load_file(stored / "model.safetensors").items() if APART in name}

    checkpoint = open_checkpoint(edit(memory, lambda tensors: tensors.update(apart)), stored)

    assert f"{STACKS}down_proj" in checkpoint.files.entries
    assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in apart.items())


@pytest.mark.parametrize("shape", [(), (4,), (4, 384), (4, 383, 128), (1 << 62, 0, 0), (MOST_EXPERTS + 1, 2, 1)])
def test_a_stack_of_an_impossible_shape_is_left_as_it_is(shape: tuple[int, ...], both: tuple[Path, Path]) -> None:
    stored, memory = both
    edit(memory, lambda tensors: tensors.pop(f"{STACKS}gate_up_proj"))
    file = memory / "model.safetensors"
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    length = 2 * torch.Size(shape).numel()
    header[f"{STACKS}gate_up_proj"] = {
        "dtype": "BF16",
        "shape": list(shape),
        "data_offsets": [len(rest), len(rest) + length],
    }
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + rest + bytes(length))

    names = open_checkpoint(memory, stored).files.entries.keys()

    assert f"{STACKS}gate_up_proj" in names
    assert f"{APART}0.w1.weight" not in names
    assert f"{APART}0.w2.weight" in names


def test_stacks_whose_dimensions_are_exchanged_are_turned(tmp_path: Path) -> None:
    base = tmp_path / "base"
    torch.manual_seed(0)
    tiny_multimodal_model("qwen3_vl_moe").save_pretrained(base)
    shutil.copytree(base, tmp_path / "own")
    stacks = [name for name in load_file(base / "model.safetensors") if "mlp.experts." in name]

    def turn(tensors: Tensors) -> None:
        tensors.update({name: tensors[name].mT for name in stacks})

    assert stacks
    assert_same_both_ways(base, edit(tmp_path / "own", turn))


def test_a_gguf_file_is_read_as_the_stacks_of_its_baseline(both: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    stored, memory = both
    subject = restore("gguf-experts-q4_0", tmp_path / "subject")

    apart, stacked = open_checkpoint(subject, stored), open_checkpoint(subject, memory)

    assert stacked.files.shapes == open_checkpoint(memory).files.shapes
    first, last = (stacked.read(f"{STACKS}{part}") for part in ("gate_up_proj", "down_proj"))
    for expert in range(4):
        gate, down, up = (apart.read(f"{APART}{expert}.{part}.weight") for part in ("w1", "w2", "w3"))
        assert torch.equal(first[expert], torch.cat((gate, up)))
        assert torch.equal(last[expert], down)
    assert stacked.check() == apart.check() == ()


def test_a_gguf_file_of_another_mixture_of_experts_is_read_as_its_stacks(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    base, memory = write_small_model("olmoe", tmp_path / "base"), tmp_path / "memory"
    load: Any = AutoModelForCausalLM.from_pretrained  # transformers gives it no type
    load(base, dtype="auto").save_pretrained(memory, save_original_format=False)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")

    checkpoint = open_checkpoint(tmp_path / "olmoe.gguf", memory)

    stored = load_file(memory / "model.safetensors")
    assert "model.layers.0.mlp.experts.gate_up_proj" in stored
    assert checkpoint.files.shapes == {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert [name for name, tensor in stored.items() if not torch.equal(checkpoint.read(name), tensor)] == []


def test_without_transformers_5_every_tensor_keeps_its_name(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, memory = both
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)

    checkpoint = open_checkpoint(memory, stored)

    assert checkpoint.files.shapes == open_checkpoint(memory).files.shapes


def test_code_in_a_checkpoint_is_not_run_to_find_its_tensors_whatever_the_terminal_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = tmp_path / "run", []
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(
        f"from transformers import PreTrainedConfig\nopen({str(run)!r}, 'w').close()\n"
        "class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n"
    )

    def answer(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)

    assert find_places(tmp_path, ["own.weight"]) is None
    assert not asked
    assert not run.exists()
