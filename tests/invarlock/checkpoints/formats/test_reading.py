"""Packed checkpoints read as the dense ones that they stand for: files of the real tools, and the tools' own numbers.

Formats whose tool needs a GPU are written by hand here, by the formula that the format documents.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shipped_checkpoints import baseline_of, dense_numbers, digest, restore, write_baseline

from invarlock.checkpoints.formats.interface import Checkpoint, Defect, Quantisation
from invarlock.checkpoints.storage_format import check_dense, open_checkpoint
from invarlock.errors import CheckpointError

SHIPPED = {
    "compressed-tensors-w8a8": (8, 8, 0, True),
    "compressed-tensors-w4a16": (4, None, 32, True),
    "compressed-tensors-w4a16-asym": (4, None, 32, False),
    "compressed-tensors-fp8": (8, 8, 0, True),
    "compressed-tensors-fp8-block": (8, 8, 0, True),
    "compressed-tensors-nvfp4": (4, None, 16, True),
    "compressed-tensors-mxfp4": (4, None, 32, True),
}
LAYER = "model.layers.0.mlp.up_proj"
WEIGHT = f"{LAYER}.weight"
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
Edit = Callable[[dict[str, torch.Tensor]], object]


def edit_tensors(folder: Path, edit: Edit) -> Path:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return folder


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    edit(config["quantization_config"])
    path.write_text(json.dumps(config))
    return folder


def matrices(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name in tensors if name.endswith("_proj.weight")]


def write_block_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """Write a model in blocks of 32 × 64, the last of a row cut off, and return its dense numbers."""
    dense: dict[str, torch.Tensor] = {}

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        for name in matrices(tensors):
            weight = tensors[name].float()
            rows, columns = weight.shape
            tall, wide = -(-rows // 48), -(-columns // 80)
            scale = torch.rand(tall, wide) / 100 + 0.001
            spread = torch.empty(rows, columns)
            for row in range(tall):
                for column in range(wide):
                    spread[row * 48 : row * 48 + 48, column * 80 : column * 80 + 80] = scale[row, column]
            codes = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
            tensors[name], tensors[f"{name}_scale_inv"] = codes, scale
            dense[name] = (codes.float() * spread).bfloat16()

    torch.manual_seed(0)
    write_baseline("qwen2-tiny", folder)
    add_quantisation(folder, {"quant_method": "fp8", "weight_block_size": [48, 80], "activation_scheme": "dynamic"})
    edit_tensors(folder, pack)
    return dense


def write_autofp8(
    folder: Path, scheme: str = "dynamic", shape: tuple[int, ...] = (), baseline: str = "qwen2-tiny"
) -> dict[str, torch.Tensor]:
    """Write a model with a scale for each tensor, as AutoFP8 does, and return its dense numbers."""
    dense: dict[str, torch.Tensor] = {}

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        for name in [*matrices(tensors), *(name for name in tensors if ".experts." in name)]:
            weight = tensors[name].float()
            scale = weight.abs().max() / 448
            codes = (weight / scale).to(torch.float8_e4m3fn)
            tensors[name], tensors[f"{name}_scale"] = codes, scale.reshape(shape)
            dense[name] = (codes.float() * scale).bfloat16()
            if scheme == "static":
                tensors[name.replace("weight", "input_scale")] = torch.tensor(0.1).reshape(shape)

    write_baseline(baseline, folder)
    gates = [f"model.layers.{layer}.block_sparse_moe.gate" for layer in range(4)]
    ignored = ["lm_head", *(gates if baseline == "mixtral-tiny" else [])]
    add_quantisation(folder, {"quant_method": "fp8", "activation_scheme": scheme, "ignored_layers": ignored})
    edit_tensors(folder, pack)
    return dense


def write_static_w8a8(folder: Path) -> None:
    """Write a file of compressed-tensors with a stored scale for the inputs of each matrix."""

    def calibrate(tensors: dict[str, torch.Tensor]) -> None:
        for name in matrices(tensors):
            tensors[name.replace("weight", "input_scale")] = torch.tensor([0.1])
            tensors[name.replace("weight", "input_zero_point")] = torch.tensor([0], dtype=torch.int8)
        tensors["model.layers.0.self_attn.k_scale"] = torch.tensor([0.03])
        tensors["model.layers.0.self_attn.k_zero_point"] = torch.tensor([0.0])

    restore("compressed-tensors-w8a8", folder)
    inputs = {"num_bits": 8, "type": "int", "strategy": "tensor", "dynamic": False, "symmetric": True}
    edit_config(folder, lambda stated: stated["config_groups"]["group_0"].update(input_activations=inputs))
    edit_tensors(folder, calibrate)


def write_modelopt(folder: Path, algorithm: str) -> dict[str, torch.Tensor]:
    dense: dict[str, torch.Tensor] = {}

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        for name in matrices(tensors):
            weight = tensors[name].float()
            if algorithm == "FP8":
                scale = weight.abs().max() / 448
                codes = (weight / scale).to(torch.float8_e4m3fn)
                tensors[name], tensors[f"{name}_scale"] = codes, scale
                tensors[name.replace("weight", "input_scale")] = torch.tensor(0.1)
                dense[name] = (codes.float() * scale).bfloat16()
                continue
            whole = weight.abs().max() / (6 * 448)
            groups = weight.unflatten(1, (-1, 16))
            small = (groups.abs().amax(-1) / 6 / whole).to(torch.float8_e4m3fn)
            spread = (small.float() * whole)[..., None]
            nearest = ((groups / spread).abs()[..., None] - E2M1).abs().argmin(-1)
            sign = (groups < 0).long()
            dense[name] = (E2M1[nearest] * (1 - 2 * sign) * spread).flatten(1).bfloat16()
            nibbles = (nearest + 8 * sign).flatten(1).to(torch.uint8)
            tensors[name] = nibbles[:, ::2] | (nibbles[:, 1::2] << 4)
            tensors[f"{name}_scale"], tensors[f"{name}_scale_2"] = small, whole

    write_baseline("qwen2-tiny", folder)
    document: dict[str, Any] = {
        "producer": {"name": "modelopt", "version": "0.33.0"},
        "quantization": {"quant_algo": algorithm},
    }
    document["quantization"]["exclude_modules"] = ["lm_head"]
    (folder / "hf_quant_config.json").write_text(json.dumps(document))
    edit_tensors(folder, pack)
    return dense


def add_quantisation(folder: Path, quantisation: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "quantization_config": quantisation}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a packed checkpoint by its name, made once."""
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp("packed") / name
            if name in SHIPPED:
                restore(name, folder)
            elif name == "block-fp8":
                write_block_fp8(folder)
            elif name == "autofp8":
                write_autofp8(folder, "static")
            elif name == "autofp8-experts":
                write_autofp8(folder, "static", baseline="mixtral-tiny")
            elif name == "w8a8-static":
                write_static_w8a8(folder)
            else:
                write_modelopt(folder, name.rpartition("-")[2].upper())
            folders[name] = folder
        return folders[name]

    return make


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reader_gives_the_numbers_that_the_tool_itself_dequantises(made: Callable[[str], Path], name: str) -> None:
    checkpoint, wanted = open_checkpoint(made(name)), dense_numbers(name)

    for tensor in checkpoint.files.entries:
        read, numbers = checkpoint.read(tensor), wanted[tensor]
        assert (list(read.shape), digest(read)) == (numbers["shape"], numbers["sha256"]), tensor
    assert checkpoint.check() == ()


@pytest.mark.parametrize("name", SHIPPED)
def test_storage_says_how_a_checkpoint_is_packed(made: Callable[[str], Path], name: str) -> None:
    checkpoint, bits = open_checkpoint(made(name)), SHIPPED[name][0]
    storage = checkpoint.storage()
    found = storage.quantisation

    assert found is not None
    assert (found.bits, found.activation_bits, found.group_size, found.symmetric) == SHIPPED[name]
    assert found.tool is not None
    assert found.tool.startswith("compressed-tensors 0.")
    assert "lm_head" in found.ignored_modules
    assert bits <= 8 * storage.packed_bytes / storage.packed_weights < 1.4 * bits
    assert "model.embed_tokens.weight" in storage.unpacked_modules
    assert WEIGHT not in storage.unpacked_modules
    assert storage.stored_bytes < (made(name) / "model.safetensors").stat().st_size


def test_the_logical_tensors_are_those_of_the_baseline(made: Callable[[str], Path], tmp_path: Path) -> None:
    baseline = check_dense(write_baseline("qwen2-tiny", tmp_path / "baseline"))

    for name in (*SHIPPED, "block-fp8", "modelopt-fp8", "modelopt-nvfp4"):
        files = open_checkpoint(made(name)).files
        assert files.shapes == baseline.shapes, name
        assert {entry.dtype for entry in files.entries.values()} == {"BF16"}, name
        assert "quantization_config" not in files.config
        assert baseline_of(name) == "qwen2-tiny" if name in SHIPPED else True


@pytest.mark.parametrize("name", ["block-fp8", "modelopt-fp8", "modelopt-nvfp4"])
def test_formats_written_by_hand_are_read_by_their_formula(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    dense = write_block_fp8(folder) if name == "block-fp8" else write_modelopt(folder, name.rpartition("-")[2].upper())
    checkpoint = open_checkpoint(folder)

    assert len(dense) == 28
    for tensor, numbers in dense.items():
        assert torch.equal(checkpoint.read(tensor), numbers), tensor
    assert checkpoint.check() == ()


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_float8_with_a_scale_for_each_tensor_needs_no_size_of_a_block(
    tmp_path: Path, scheme: str, shape: tuple[int, ...]
) -> None:
    dense = write_autofp8(tmp_path / "model", scheme, shape)
    checkpoint = open_checkpoint(tmp_path / "model")

    assert [name for name, numbers in dense.items() if not torch.equal(checkpoint.read(name), numbers)] == []
    assert checkpoint.check() == ()
    assert checkpoint.storage().quantisation == Quantisation(
        None, "block FP8 (a tensor a scale)", 8, 8, 0, True, ("lm_head",)
    )


def test_one_scale_of_another_shape_than_the_others_is_a_defect(tmp_path: Path, made: Callable[[str], Path]) -> None:
    write_autofp8(tmp_path / "tensors")
    edit_tensors(tmp_path / "tensors", put(SCALE, lambda scale: scale.repeat(3)))
    shutil.copytree(made("block-fp8"), tmp_path / "blocks")
    edit_tensors(tmp_path / "blocks", put(INVERSE, lambda scale: scale[0, 0]))

    assert any(defect.tensor == WEIGHT for defect in open_checkpoint(tmp_path / "tensors").check())
    (defect,) = open_checkpoint(tmp_path / "blocks").check()
    assert (defect.tensor, "weight_scale_inv has shape []" in defect.reason) == (WEIGHT, True)


@pytest.mark.parametrize(
    ("pattern", "excluded"),
    [
        (r"model\.layers\.0\.mlp", True),
        (r".*layers\.0\.mlp\..*_proj", True),
        (r"model\.layers\.\d+\.(mlp|nothing)", True),
        ("model.layers.0.mlp", True),
        ("up_proj", True),
        # transformers matches patterns at the beginning of a name
        (r"layers\.0\.mlp", False),
        (r"model\.layers\.0\.mlp\.up", False),
        ("model.layers.1.mlp", False),
    ],
)
def test_a_pattern_that_transformers_accepts_excludes_a_module_of_float8(
    made: Callable[[str], Path], tmp_path: Path, pattern: str, excluded: bool
) -> None:
    def unpack(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[INVERSE]
        tensors[WEIGHT] = torch.ones(384, 128, dtype=torch.bfloat16)

    for name in ("packed", "dense"):
        shutil.copytree(made("block-fp8"), tmp_path / name)
        edit_config(tmp_path / name, lambda stated: stated.update(modules_to_not_convert=["lm_head", pattern]))
    edit_tensors(tmp_path / "dense", unpack)

    found = {
        name: [defect for defect in open_checkpoint(tmp_path / name).check() if defect.tensor == WEIGHT]
        for name in ("packed", "dense")
    }

    assert (bool(found["packed"]), bool(found["dense"])) == (excluded, not excluded)


@pytest.mark.parametrize("name", ["compressed-tensors-w4a16", "block-fp8", "modelopt-nvfp4"])
def test_a_packed_checkpoint_is_no_baseline(made: Callable[[str], Path], name: str) -> None:
    with pytest.raises(CheckpointError, match="the baseline must be dense") as raised:
        check_dense(made(name))

    assert "\n" not in str(raised.value)


def put(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = change(tensors[name])

    return edit


def drop(name: str) -> Edit:
    return lambda tensors: tensors.pop(name)


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.float()
        changed.view(-1)[0] = value
        return changed.to(tensor.dtype)

    return change


def unpacked(weight: str, *parts: str) -> Edit:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        shape = tensors[f"{LAYER}.weight_scale"].shape[0]
        for part in parts:
            tensors.pop(f"{LAYER}.{part}", None)
        tensors[weight] = torch.ones(shape, 128, dtype=torch.bfloat16)

    return edit


SCALE = f"{LAYER}.weight_scale"
PACKED = f"{LAYER}.weight_packed"
INVERSE = f"{LAYER}.weight_scale_inv"
# Of each format: what was done to the layer's tensors, the kind of the one line, and a word of it.
DEFECTS: dict[str, list[tuple[Edit, str, str]]] = {
    "compressed-tensors-w8a8": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(WEIGHT), "packing", "weight is missing"),
        (put(SCALE, first(0.0)), "scale", "1 of 384 values is zero"),
        (put(SCALE, first(float("nan"))), "scale", "1 of 384 values is not finite"),
        (put(SCALE, lambda scale: scale[:-1]), "scale", "has shape"),
        (unpacked(WEIGHT, "weight_scale"), "packing", "stored as BF16, and config.json says it is packed"),
    ],
    "compressed-tensors-w4a16": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(PACKED), "packing", "weight_packed is missing"),
        (drop(f"{LAYER}.weight_shape"), "packing", "weight_shape says nothing"),
        (put(f"{LAYER}.weight_shape", lambda shape: shape + 8), "packing", "weight_shape says"),
        (put(SCALE, first(0.0)), "scale", "zero"),
        (put(SCALE, first(float("inf"))), "scale", "not finite"),
        (put(SCALE, lambda scale: scale[:, :2]), "scale", "has shape"),
        (put(PACKED, lambda words: words.long()), "packing", "stored as I64"),
    ],
    "compressed-tensors-w4a16-asym": [
        (drop(f"{LAYER}.weight_zero_point"), "scale", "weight_zero_point is missing"),
        (put(f"{LAYER}.weight_zero_point", lambda zero: zero[:-1]), "scale", "weight_zero_point has shape"),
        (drop(SCALE), "scale", "weight_scale is missing"),
        (put(SCALE, first(0.0)), "scale", "zero"),
        (put(SCALE, first(float("nan"))), "scale", "not finite"),
        (drop(PACKED), "packing", "weight_packed is missing"),
    ],
    "compressed-tensors-fp8": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (put(SCALE, first(0.0)), "scale", "zero"),
        (put(SCALE, first(float("nan"))), "scale", "not finite"),
        (put(SCALE, lambda scale: scale[:-1]), "scale", "has shape"),
        (drop(WEIGHT), "packing", "weight is missing"),
        (unpacked(WEIGHT, "weight_scale"), "packing", "stored as BF16, and config.json says it is packed"),
    ],
    "compressed-tensors-fp8-block": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(WEIGHT), "packing", "weight is missing"),
        (put(SCALE, first(0.0)), "scale", "zero"),
        (put(SCALE, first(float("nan"))), "scale", "not finite"),
        (put(SCALE, lambda scale: scale[:, :1]), "scale", "has shape"),
        (put(WEIGHT, lambda codes: codes[0]), "packing", "of shape [128]"),
    ],
    "compressed-tensors-nvfp4": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(f"{LAYER}.weight_global_scale"), "scale", "weight_global_scale is missing"),
        (drop(PACKED), "packing", "weight_packed is missing"),
        (put(SCALE, first(0.0)), "scale", "zero"),
        (put(f"{LAYER}.weight_global_scale", first(float("inf"))), "scale", "not finite"),
        (put(SCALE, lambda scale: scale[:, :1]), "scale", "has shape"),
        (put(PACKED, lambda codes: codes.int()), "packing", "stored as I32"),
    ],
    "compressed-tensors-mxfp4": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(PACKED), "packing", "weight_packed is missing"),
        (put(SCALE, first(255)), "scale", "weight_scale: 1 of 1536 values is not finite"),
        (put(SCALE, lambda scale: scale[:, :1]), "scale", "has shape"),
        (put(SCALE, lambda scale: scale.bfloat16()), "scale", "weight_scale is stored as BF16"),
        (put(PACKED, lambda codes: codes.int()), "packing", "stored as I32"),
        (put(PACKED, lambda codes: codes[0]), "packing", "of shape [64]"),
    ],
    "block-fp8": [
        (drop(INVERSE), "scale", "weight_scale_inv is missing"),
        (drop(WEIGHT), "packing", "weight is missing"),
        (put(INVERSE, first(0.0)), "scale", "zero"),
        (put(INVERSE, first(float("inf"))), "scale", "not finite"),
        (put(INVERSE, lambda scale: scale[:, :1]), "scale", "has shape"),
        (put(WEIGHT, lambda codes: codes.bfloat16()), "packing", "next to scales of float8 codes"),
    ],
    "autofp8": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(WEIGHT), "packing", "weight is missing"),
        (put(SCALE, lambda scale: scale * 0), "scale", "zero"),
        (put(SCALE, lambda scale: scale * float("nan")), "scale", "not finite"),
        (put(WEIGHT, lambda codes: codes.bfloat16()), "packing", "next to scales of float8 codes"),
        (put(WEIGHT, lambda codes: codes[0]), "packing", "of shape [128]"),
    ],
    "modelopt-fp8": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(WEIGHT), "packing", "weight is missing"),
        (put(SCALE, lambda scale: scale * 0), "scale", "zero"),
        (put(SCALE, lambda scale: scale * float("nan")), "scale", "not finite"),
        (put(SCALE, lambda scale: torch.ones(7)), "scale", "has shape"),
        (put(WEIGHT, lambda codes: codes.bfloat16()), "packing", "stored as BF16"),
    ],
    "modelopt-nvfp4": [
        (drop(SCALE), "scale", "weight_scale is missing"),
        (drop(f"{SCALE}_2"), "scale", "weight_scale_2 is missing"),
        (drop(WEIGHT), "packing", "weight is missing"),
        (put(SCALE, first(0.0)), "scale", "zero"),
        (put(f"{SCALE}_2", lambda scale: scale * float("inf")), "scale", "not finite"),
        (put(SCALE, lambda scale: scale[:, :1]), "scale", "has shape"),
        (put(WEIGHT, lambda codes: codes.bfloat16()), "packing", "stored as BF16"),
    ],
}


@pytest.mark.parametrize(
    ("name", "edit", "kind", "words"),
    [pytest.param(name, *row, id=f"{name}-{row[2]}") for name, rows in DEFECTS.items() for row in rows],
)
def test_a_defect_is_one_line_that_names_the_layer(
    made: Callable[[str], Path], tmp_path: Path, name: str, edit: Edit, kind: str, words: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(made(name), folder)

    checkpoint = open_checkpoint(edit_tensors(folder, edit))

    (defect,) = checkpoint.check()
    assert (defect.tensor, defect.kind) == (WEIGHT, kind)
    assert words in defect.reason
    assert "\n" not in defect.reason
    assert readable(checkpoint) >= 49


# The rows and columns of weights that share the first scale.
GROUPS: dict[str, tuple[str, int, int]] = {
    "compressed-tensors-w8a8": (SCALE, 1, 128),
    "compressed-tensors-w4a16": (SCALE, 1, 32),
    "compressed-tensors-w4a16-asym": (SCALE, 1, 32),
    "compressed-tensors-fp8": (SCALE, 1, 128),
    "compressed-tensors-nvfp4": (SCALE, 1, 16),
    "block-fp8": (INVERSE, 48, 80),
    "autofp8": (SCALE, 384, 128),
    "modelopt-nvfp4": (SCALE, 1, 16),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_scale_of_zero_is_right_where_all_its_weights_are_zero_in_the_baseline(
    made: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    scale, rows, columns = GROUPS[name]
    folder = tmp_path / "subject"
    shutil.copytree(made(name), folder)
    edit_tensors(folder, put(scale, (lambda one: one * 0) if name == "autofp8" else first(0.0)))

    def baseline(kind: str, last: float) -> Path:
        def kill(tensors: dict[str, torch.Tensor]) -> None:
            tensors[WEIGHT][:rows, :columns] = 0
            tensors[WEIGHT][rows - 1, columns - 1] = last

        return edit_tensors(write_baseline("qwen2-tiny", tmp_path / kind), kill)

    dead, alive = baseline("dead", 0.0), baseline("alive", 0.01)

    assert open_checkpoint(folder, dead).check() == ()
    assert not open_checkpoint(folder, dead).read(WEIGHT)[:rows, :columns].any()
    assert [defect.tensor for defect in open_checkpoint(folder, alive).check()] == [WEIGHT]
    assert [defect.tensor for defect in open_checkpoint(folder).check()] == [WEIGHT]
    edit_tensors(folder, put(scale, lambda one: (one.float() * float("nan")).to(one.dtype)))
    assert [defect.tensor for defect in open_checkpoint(folder, dead).check()] == [WEIGHT]


STATIC = ("autofp8", "modelopt-fp8", "w8a8-static")
INPUTS = f"{LAYER}.input_scale"


def add(name: str, *values: float) -> Edit:
    return lambda tensors: tensors.__setitem__(name, torch.tensor(values))


@pytest.mark.parametrize(
    ("edit", "tensor", "words"),
    [
        (put(INPUTS, first(float("nan"))), INPUTS, "1 of 1 values is not finite"),
        (put(INPUTS, first(float("inf"))), INPUTS, "1 of 1 values is not finite"),
        (put(INPUTS, first(0.0)), INPUTS, "1 of 1 values is zero or negative"),
        (put(INPUTS, first(-0.1)), INPUTS, "1 of 1 values is zero or negative"),
        (drop(INPUTS), INPUTS, "missing, and the config says that inputs have stored scales"),
        (add("model.layers.1.self_attn.k_scale", float("nan")), "model.layers.1.self_attn.k_scale", "not finite"),
        (
            add("model.layers.1.self_attn.v_scale", 0.1, 0.0),
            "model.layers.1.self_attn.v_scale",
            "1 of 2 values is zero",
        ),
        (add("model.layers.1.self_attn.kv_scale", 0.0), "model.layers.1.self_attn.kv_scale", "zero or negative"),
        (add("model.layers.1.self_attn.k_proj.k_scale", 0.0), "model.layers.1.self_attn.k_proj.k_scale", "zero"),
        (add(f"{LAYER}.input_zero_point", float("nan")), f"{LAYER}.input_zero_point", "not finite"),
    ],
)
@pytest.mark.parametrize("name", STATIC)
def test_a_scale_of_activations_with_which_nothing_can_be_computed_is_a_defect(
    made: Callable[[str], Path], tmp_path: Path, name: str, edit: Edit, tensor: str, words: str
) -> None:
    assert open_checkpoint(made(name)).check() == ()
    folder = tmp_path / "broken"
    shutil.copytree(made(name), folder)

    checkpoint = open_checkpoint(edit_tensors(folder, edit))

    (defect,) = checkpoint.check()
    assert (defect.tensor, defect.kind) == (tensor, "activations")
    assert words in defect.reason
    assert checkpoint.files.shapes == open_checkpoint(made(name)).files.shapes


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("autofp8", add(INPUTS, 1e6)),
        ("autofp8", lambda tensors: tensors.__setitem__(f"{LAYER}.activation_scale", tensors.pop(INPUTS))),
        ("autofp8", add("model.layers.1.self_attn.kv_scale", 0.03)),
        ("autofp8", add("model.layers.1.self_attn.prob_scale", 0.03)),
        ("block-fp8", add("model.layers.1.self_attn.v_scale", 0.03)),
        ("compressed-tensors-w8a8", add("model.layers.1.self_attn.k_scale", 0.03, 0.04)),
        ("compressed-tensors-nvfp4", add(f"{LAYER}.input_global_scale", 900.0)),
        ("modelopt-nvfp4", lambda tensors: None),
    ],
)
def test_scales_of_activations_that_can_be_computed_with_are_no_defects(
    made: Callable[[str], Path], tmp_path: Path, name: str, edit: Edit
) -> None:
    folder = tmp_path / "subject"
    shutil.copytree(made(name), folder)

    checkpoint = open_checkpoint(edit_tensors(folder, edit))

    assert checkpoint.check() == ()
    assert not any("scale" in tensor for tensor in checkpoint.files.entries)


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("compressed-tensors-fp8", {"dynamic": False, "num_bits": 8}),
        ("compressed-tensors-fp8", {"num_bits": 8}),
        ("compressed-tensors-nvfp4", {"dynamic": "local", "num_bits": 4}),
    ],
)
def test_a_static_scheme_without_any_scales_of_inputs_is_a_defect_of_each_module(
    made: Callable[[str], Path], tmp_path: Path, name: str, stated: dict[str, Any]
) -> None:
    folder = tmp_path / "subject"
    shutil.copytree(made(name), folder)

    edit_config(folder, lambda config: config["config_groups"]["group_0"].update(input_activations=stated))

    found = open_checkpoint(folder).check()
    assert {defect.kind for defect in found} == {"activations"}
    assert len(found) == sum(tensor.endswith(".weight_scale") for tensor in load_file(folder / "model.safetensors"))


EXPERT = "model.layers.0.block_sparse_moe.experts.{}.w1.input_scale"


def of_experts(change: Callable[[dict[str, torch.Tensor], str], object], *experts: int) -> Edit:
    return lambda tensors: [change(tensors, EXPERT.format(expert)) for expert in experts]


@pytest.mark.parametrize(
    ("edit", "broken"),
    [
        (of_experts(lambda tensors, name: tensors.pop(name), 0, 2), []),
        (of_experts(lambda tensors, name: tensors.update({name: torch.tensor(0.0)}), 1), []),
        (of_experts(lambda tensors, name: tensors.update({name: torch.tensor(float("nan"))}), 1), [1]),
        (of_experts(lambda tensors, name: tensors.update({name: torch.tensor(0.0)}), 0, 1, 2, 3), [0, 1, 2, 3]),
        (of_experts(lambda tensors, name: tensors.pop(name), 0, 1, 2, 3), [0, 1, 2, 3]),
    ],
)
def test_an_expert_that_the_calibration_did_not_reach_needs_no_scale_of_its_inputs(
    made: Callable[[str], Path], tmp_path: Path, edit: Edit, broken: list[int]
) -> None:
    folder = tmp_path / "subject"
    shutil.copytree(made("autofp8-experts"), folder)

    found = open_checkpoint(edit_tensors(folder, edit)).check()

    assert [defect.tensor for defect in found] == [EXPERT.format(expert) for expert in broken]


def readable(checkpoint: Checkpoint) -> int:
    """Return how many tensors can be read; reading raises nothing."""
    return sum(checkpoint.read(name).numel() > 0 for name in checkpoint.files.entries)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("compressed-tensors-w8a8", "ignore"),
        ("compressed-tensors-w4a16", "ignore"),
        ("block-fp8", "modules_to_not_convert"),
    ],
)
def test_a_packed_layer_that_the_config_excludes_is_named(
    made: Callable[[str], Path], tmp_path: Path, name: str, key: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(made(name), folder)

    checkpoint = open_checkpoint(edit_config(folder, lambda stated: stated.__setitem__(key, ["lm_head", LAYER])))

    assert checkpoint.check() == (Defect(WEIGHT, "packing", "packed, and config.json says it is left as it was"),)


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("compressed-tensors-w4a16", {"format": "marlin-24", "config_groups": {"a": {"weights": {}}}}, "marlin-24"),
        ("compressed-tensors-w4a16", {"config_groups": {}}, "config_groups"),
        ("compressed-tensors-w4a16", {"transform_config": {"config_groups": {"u": {}}}}, "transforms"),
        ("compressed-tensors-w4a16", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse"),
        ("block-fp8", {"weight_block_size": [0, "x"]}, "weight_block_size"),
    ],
)
def test_a_variant_without_a_reader_is_refused_by_its_name(
    made: Callable[[str], Path], tmp_path: Path, name: str, edit: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "variant"
    shutil.copytree(made(name), folder)

    with pytest.raises(CheckpointError, match="save it dequantised") as raised:
        open_checkpoint(edit_config(folder, lambda stated: stated.update(edit)))

    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("algorithm", "read"), [("FP8", True), ("NVFP4", True), ("W4A8_AWQ", False), ("MXFP8", False), (None, False)]
)
def test_modelopt_is_read_where_its_algorithm_is(tmp_path: Path, algorithm: str | None, read: bool) -> None:
    folder = tmp_path / "model"
    write_modelopt(folder, algorithm if algorithm in ("FP8", "NVFP4") else "FP8")
    path = folder / "hf_quant_config.json"
    path.write_text(json.dumps({"quantization": {"quant_algo": algorithm, "exclude_modules": ["lm_head"]}}))

    if read:
        assert open_checkpoint(folder).check() == ()
    else:
        with pytest.raises(CheckpointError, match="quant_algo" if algorithm else "it has a tensor .*weight_scale"):
            open_checkpoint(folder)


def test_dense_weights_with_a_quantised_cache_are_read_as_they_are(tmp_path: Path) -> None:
    folder = write_baseline("qwen2-tiny", tmp_path / "model")
    dense = open_checkpoint(folder)
    quantised = {"quant_algo": None, "kv_cache_quant_algo": "FP8"}
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": quantised}))
    name = "model.layers.0.self_attn.k_proj.k_scale"
    edit_tensors(folder, add(name, 0.03))

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert checkpoint.files.entries == dense.files.entries
    storage = checkpoint.storage()
    assert (storage.format, storage.packed_weights) == ("ModelOpt", 0)
    assert storage.quantisation == Quantisation("NVIDIA ModelOpt", "ModelOpt (KV cache as FP8)")
    edit_tensors(folder, put(name, first(float("nan"))))
    assert [defect.tensor for defect in open_checkpoint(folder).check()] == [name]
    edit_tensors(folder, put(WEIGHT, lambda weight: weight.to(torch.float8_e4m3fn)))
    with pytest.raises(CheckpointError, match="quant_algo is 'None'"):
        open_checkpoint(folder)


@pytest.mark.parametrize("target", ["re:(a+)+$", "re:.*.*.*.*x", 7, None])
def test_odd_patterns_of_a_config_take_no_time_and_match_nothing(
    made: Callable[[str], Path], tmp_path: Path, target: object
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(made("compressed-tensors-w8a8"), folder)

    checkpoint = open_checkpoint(edit_config(folder, lambda stated: stated.__setitem__("ignore", ["lm_head", target])))

    assert checkpoint.check() == ()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.int32])
def test_a_packed_stack_of_experts_is_refused_and_never_a_defect(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = restore("compressed-tensors-fp8", tmp_path / "subject")
    stack = torch.zeros(4, 8, 16, dtype=dtype)

    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0.mlp.experts.gate_up_proj": stack}))

    with pytest.raises(CheckpointError, match=r"its experts are one packed stack, such as model\.layers\.0\.mlp"):
        open_checkpoint(folder)
