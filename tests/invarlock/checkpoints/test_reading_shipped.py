"""Readers give the numbers of the real tools, or one line that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shipped_checkpoints import baseline_of, dense_numbers, digest, names, restore, write_baseline

from invarlock.checkpoints.formats.interface import PACKING, SCALE
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.errors import CheckpointError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
UP = "model.layers.0.mlp.up_proj"
Tensors = dict[str, torch.Tensor]


def edit_tensors(folder: Path, edit: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def edit_quantisation(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))


def is_same(tensor: torch.Tensor, numbers: Mapping[str, Any]) -> bool:
    """Return whether a tensor has the values of the tool, which may write 0 where the product is −0."""
    rounded = tensor.to(DTYPES[numbers["dtype"]])
    return list(tensor.shape) == numbers["shape"] and numbers["sha256"] in (digest(rounded), digest(rounded + 0.0))


@pytest.mark.parametrize("name", names())
def test_a_packed_checkpoint_is_read_as_its_tool_dequantises_it(name: str, tmp_path: Path) -> None:
    base = write_baseline(baseline_of(name), tmp_path / "baseline")
    dense = dense_numbers(name)

    checkpoint = open_checkpoint(restore(name, tmp_path / "subject"), base)

    assert checkpoint.check() == ()
    assert checkpoint.files.shapes == open_checkpoint(base).files.shapes
    differing = [key for key in checkpoint.files.entries if not is_same(checkpoint.read(key), dense[key])]
    assert differing == []


@pytest.mark.parametrize("name", names())
def test_a_packed_checkpoint_says_how_it_is_stored(name: str, tmp_path: Path) -> None:
    base = write_baseline(baseline_of(name), tmp_path / "baseline")

    storage = open_checkpoint(restore(name, tmp_path / "subject"), base).storage()

    assert storage.quantisation is not None
    assert storage.quantisation.method
    assert name.startswith("peft") or 0 < storage.packed_weights < storage.weights


def scale_is(value: float) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[f"{UP}.scales"][0, 0] = value

    return edit


def without(part: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        del tensors[f"{UP}.{part}"]

    return edit


def cut(part: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[f"{UP}.{part}"] = tensors[f"{UP}.{part}"][:-1]

    return edit


def retyped(part: str, dtype: torch.dtype) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[f"{UP}.{part}"] = tensors[f"{UP}.{part}"].to(dtype)

    return edit


def order_is(value: int) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[f"{UP}.g_idx"][5] = value

    return edit


def left_dense(tensors: Tensors) -> None:
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        tensors.pop(f"{UP}.{part}", None)
    tensors[f"{UP}.weight"] = torch.zeros(384, 128, dtype=torch.bfloat16)


def dense_too(tensors: Tensors) -> None:
    tensors[f"{UP}.weight"] = torch.zeros(384, 128, dtype=torch.bfloat16)


OF_WORDS = [
    (scale_is(0.0), SCALE, "scales: 1 of 1536 values is zero"),
    (scale_is(float("nan")), SCALE, "scales: 1 of 1536 values is not finite"),
    (without("scales"), PACKING, "scales is missing"),
    (without("qzeros"), PACKING, "qzeros is missing"),
    (without("qweight"), PACKING, "qweight is missing"),
    (cut("scales"), SCALE, "scales has shape"),
    (cut("qzeros"), SCALE, "qzeros has shape"),
    (retyped("qweight", torch.float32), PACKING, "qweight is stored as F32"),
    (retyped("scales", torch.int32), PACKING, "scales is stored as I32"),
    (left_dense, PACKING, "stored as BF16, and config.json says it is packed"),
    (dense_too, PACKING, "stored packed and dense"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["gptq", "awq", "auto-round"])
@pytest.mark.parametrize(("edit", "kind", "reason"), OF_WORDS)
def test_a_defect_of_gptq_and_awq_is_one_line(
    name: str, edit: Callable[[Tensors], None], kind: str, reason: str, tmp_path: Path
) -> None:
    folder = restore(name, tmp_path / "subject")
    edit_tensors(folder, edit)

    (defect,) = open_checkpoint(folder).check()

    assert (defect.tensor, defect.kind) == (f"{UP}.weight", kind)
    assert reason in defect.reason
    assert "\n" not in defect.reason


@pytest.mark.parametrize("value", [-1, 4, 2**31 - 1])
def test_a_group_that_is_out_of_range_is_a_defect_and_no_traceback(value: int, tmp_path: Path) -> None:
    folder = restore("gptq", tmp_path / "subject")
    edit_tensors(folder, order_is(value))

    checkpoint = open_checkpoint(folder)

    assert [defect.reason for defect in checkpoint.check()] == ["g_idx: 1 of 128 values name none of the 4 groups"]
    assert checkpoint.read(f"{UP}.weight").shape == (384, 128)


@pytest.mark.parametrize("name", ["gptq", "awq", "auto-round"])
def test_a_cut_tensor_is_a_defect_or_has_another_shape(name: str, tmp_path: Path) -> None:
    folder = restore(name, tmp_path / "subject")
    edit_tensors(folder, cut("qweight"))

    checkpoint = open_checkpoint(folder)

    assert f"{UP}.weight" not in checkpoint.files.entries or checkpoint.files.shapes[f"{UP}.weight"] != (384, 128)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("gptq", {"bits": 8}), ("gptq", {"bits": 2}), ("gptq", {"group_size": 64}), ("auto-round", {"bits": 8})],
)
def test_bits_that_contradict_the_shapes_are_a_defect_of_every_module(
    name: str, changes: dict[str, int], tmp_path: Path
) -> None:
    folder = restore(name, tmp_path / "subject")
    edit_quantisation(folder, **changes)

    assert len({defect.tensor for defect in open_checkpoint(folder).check()}) == 28


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("awq", {"bits": 8}, "8 bits"),
        ("awq", {"version": "gemv"}, "gemv"),
        ("gptq", {"bits": "four"}, "four"),
        ("gptq", {"bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ("gptq", {"is_marlin_format": True}, "marlin"),
        ("auto-round", {"packing_format": "auto_round:mlx"}, "mlx"),
    ],
)
def test_a_variant_without_a_reader_is_refused_by_name(
    name: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = restore(name, tmp_path / "subject")
    edit_quantisation(folder, **changes)

    with pytest.raises(CheckpointError, match=named) as raised:
        open_checkpoint(folder)

    assert "\n" not in str(raised.value)


def test_a_config_that_declares_dense_weights_packed_is_refused(tmp_path: Path) -> None:
    folder = write_baseline("qwen2-tiny", tmp_path / "subject")
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match="no tensor is"):
        open_checkpoint(folder)


def test_packed_tensors_that_the_config_does_not_declare_are_refused(tmp_path: Path) -> None:
    folder = restore("gptq", tmp_path / "subject")
    config = json.loads((folder / "config.json").read_bytes())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantization_config.json").unlink(missing_ok=True)

    with pytest.raises(CheckpointError, match="GPTQ"):
        open_checkpoint(folder)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_codes_are_packed_into_words_as_published(bits: int, version: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (128, 384), generator=generator)
    zeros = torch.randint(1, 2**bits, (4, 384), generator=generator)
    scales = torch.rand(4, 384, generator=generator).half() + 0.01
    order = torch.randperm(128, generator=generator) % 4
    stored = zeros - 1 if version == "gptq" else zeros
    folder = restore("gptq", tmp_path / "subject")
    edit_quantisation(folder, checkpoint_format=version, bits=bits, desc_act=True, dynamic={"x": {"bits": 4}})
    edit_tensors(
        folder,
        lambda tensors: tensors.update({
            f"{UP}.qweight": pack(codes.T, bits).T, f"{UP}.qzeros": pack(stored, bits), f"{UP}.scales": scales,
            f"{UP}.g_idx": order.int(),
        }),
    )  # fmt: skip

    read = open_checkpoint(folder).read(f"{UP}.weight")

    assert torch.equal(read, (scales[order] * (codes - zeros[order]).half()).T)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return codes as one stream of bits in each row, as auto-round and AutoGPTQ pack blocks of 32."""
    stream = (codes[..., None] >> torch.arange(bits)) & 1
    words = stream.flatten(-2).unflatten(-1, (-1, 32)) << torch.arange(32)
    total = words.sum(-1)
    return torch.where(total >= 2**31, total - 2**32, total).int()


def part_is(part: str, value: float) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[f"{UP}.{part}"].view(-1)[0] = value

    return edit


def state_says(**changes: Any) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        name = f"{UP}.weight.quant_state.bitsandbytes__nf4"
        state = json.loads(bytes(tensors[name].numpy())) | changes
        tensors[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    return edit


def dense_weight(tensors: Tensors) -> None:
    for name in [one for one in tensors if one.startswith(f"{UP}.")]:
        del tensors[name]
    tensors[f"{UP}.weight"] = torch.zeros(384, 128, dtype=torch.bfloat16)


NF4_STATE = "weight.quant_state.bitsandbytes__nf4"
OF_BITSANDBYTES = [
    ("int8", part_is("SCB", 0.0), SCALE, "SCB: 1 of 384 values is zero"),
    ("int8", part_is("SCB", float("inf")), SCALE, "SCB: 1 of 384 values is not finite"),
    ("int8", part_is("SCB", -1.0), SCALE, "SCB: 1 of 384 values is negative"),
    ("int8", without("SCB"), SCALE, "SCB is missing"),
    ("int8", cut("SCB"), SCALE, "SCB has shape [383], not [384]"),
    ("int8", without("weight"), PACKING, "weight is missing"),
    ("int8", retyped("weight", torch.float16), PACKING, "weight is stored as F16"),
    ("int8", part_is("weight_format", 2), PACKING, "weight_format is 2"),
    ("int8", dense_weight, PACKING, "stored as BF16, and config.json says it is packed"),
    ("nf4", part_is("weight.nested_absmax", 0.0), SCALE, "nested_absmax: 1 of 3 values is zero"),
    ("nf4", part_is("weight.nested_absmax", float("nan")), SCALE, "nested_absmax: not finite"),
    ("nf4", part_is("weight.quant_map", float("nan")), SCALE, "quant_map: not finite"),
    ("nf4", without("weight.absmax"), SCALE, "absmax is missing"),
    ("nf4", cut("weight.absmax"), SCALE, "absmax has shape [767], not [768]"),
    ("nf4", cut("weight.nested_absmax"), SCALE, "nested_absmax has shape [2], not [3]"),
    ("nf4", retyped("weight", torch.int32), PACKING, "weight is stored as I32 of shape [24576, 1], not as bytes"),
    ("nf4", cut("weight"), PACKING, "quant_state says [384, 128], and 24575 bytes of codes"),
    ("nf4", without(NF4_STATE), SCALE, "quant_state is missing"),
    ("nf4", cut(NF4_STATE), SCALE, "quant_state is missing, or says what cannot be"),
    ("nf4", state_says(blocksize=128, nested_blocksize=128), SCALE, "absmax has shape [768], not [384]"),
    ("nf4", state_says(shape=[384, 256]), PACKING, "quant_state says [384, 256]"),
    ("nf4", state_says(quant_type="fp4"), SCALE, "quant_state is missing, or says what cannot be"),
    ("nf4", retyped("weight.absmax", torch.float32), SCALE, "absmax is stored as F32, not U8"),
    ("nf4", dense_weight, PACKING, "stored as BF16, and config.json says it is packed"),
]  # fmt: skip


@pytest.mark.parametrize(("kind_of", "edit", "kind", "reason"), OF_BITSANDBYTES)
def test_a_defect_of_bitsandbytes_is_one_line(
    kind_of: str, edit: Callable[[Tensors], None], kind: str, reason: str, tmp_path: Path
) -> None:
    folder = restore(f"bitsandbytes-{kind_of}", tmp_path / "subject")
    edit_tensors(folder, edit)

    (defect,) = open_checkpoint(folder).check()

    assert (defect.tensor, defect.kind) == (f"{UP}.weight", kind)
    assert reason in defect.reason
    assert "\n" not in defect.reason


def test_a_row_of_zeros_may_have_a_scale_of_zero(tmp_path: Path) -> None:
    folder = restore("bitsandbytes-int8", tmp_path / "subject")

    def prune(tensors: Tensors) -> None:
        tensors[f"{UP}.weight"][0] = 0
        tensors[f"{UP}.SCB"][0] = 0

    edit_tensors(folder, prune)
    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert torch.equal(checkpoint.read(f"{UP}.weight")[0], torch.zeros(128, dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_four_bits_are_read_as_bitsandbytes_reads_them(
    kind: str, nested: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(384, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    codes, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested)
    folder = restore("bitsandbytes-nf4", tmp_path / "subject")

    def put(tensors: Tensors) -> None:
        for name in [one for one in tensors if one.startswith(f"{UP}.weight.")]:
            del tensors[name]
        tensors[f"{UP}.weight"] = codes
        tensors.update({f"{UP}.weight.{name}": part for name, part in state.as_dict(packed=True).items()})

    edit_tensors(folder, put)
    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert torch.equal(checkpoint.read(f"{UP}.weight"), functional.dequantize_4bit(codes, state))


STORAGES = [torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64]


def stored_as(dtype: torch.dtype) -> Callable[[Tensors], None]:
    """Store the same bytes of 4-bit codes as another dtype, as bitsandbytes does with ``bnb_4bit_quant_storage``."""

    def edit(tensors: Tensors) -> None:
        for name in [one for one in tensors if one.endswith(".quant_map")]:
            codes = tensors[name.removesuffix(".quant_map")]
            tensors[name.removesuffix(".quant_map")] = codes.reshape(-1).view(dtype).reshape(-1, 1)

    return edit


@pytest.mark.parametrize("dtype", STORAGES)
def test_the_bytes_of_codes_may_be_stored_as_another_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = restore("bitsandbytes-nf4", tmp_path / "subject")
    before = open_checkpoint(restore("bitsandbytes-nf4", tmp_path / "other"))
    edit_tensors(folder, stored_as(dtype))
    edit_quantisation(folder, bnb_4bit_quant_storage=str(dtype).removeprefix("torch."))

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert checkpoint.storage() == before.storage()
    assert all(torch.equal(checkpoint.read(name), before.read(name)) for name in before.files.entries)


@pytest.mark.parametrize("quant_storage", [torch.uint8, *STORAGES])
def test_bitsandbytes_stores_the_same_bytes_for_every_dtype(quant_storage: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(384, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    codes, _ = functional.quantize_4bit(weight, quant_type="nf4")

    stored, _ = functional.quantize_4bit(weight, quant_type="nf4", quant_storage=quant_storage)

    assert stored.dtype == quant_storage
    assert torch.equal(stored.reshape(-1).view(torch.uint8), codes.reshape(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_codes_that_were_cast_to_a_wider_dtype_are_a_defect(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = restore("bitsandbytes-nf4", tmp_path / "subject")

    def cast(tensors: Tensors) -> None:
        stored_as(dtype)(tensors)
        tensors[f"{UP}.weight"] = tensors[f"{UP}.weight"].float()

    edit_tensors(folder, cast)

    (defect,) = open_checkpoint(folder).check()

    assert (defect.tensor, defect.kind) == (f"{UP}.weight", PACKING)
    assert "quant_state says [384, 128], and 49152 bytes of codes" in defect.reason


def dense_copy(tensors: Tensors) -> None:
    tensors[f"{UP}.weight"] = torch.zeros(384, 128, dtype=torch.bfloat16)


def packed_without_codes(tensors: Tensors) -> None:
    del tensors[f"{UP}._weight_qdata"], tensors[f"{UP}._weight_scale"], tensors[f"{UP}._weight_zero_point"]


OF_TORCHAO = [
    (part_is("_weight_scale", 0.0), SCALE, "_weight_scale: 1 of 384 values is zero"),
    (part_is("_weight_scale", float("nan")), SCALE, "_weight_scale: 1 of 384 values is not finite"),
    (without("_weight_scale"), SCALE, "_weight_scale is missing"),
    (cut("_weight_scale"), SCALE, "_weight_scale has shape [383, 1], not [384, 1]"),
    (cut("_weight_zero_point"), SCALE, "_weight_zero_point has shape [383, 1], not [384, 1]"),
    (retyped("_weight_scale", torch.int32), SCALE, "_weight_scale is stored as I32"),
    (without("_weight_qdata"), PACKING, "_weight_qdata is missing"),
    (retyped("_weight_qdata", torch.float16), PACKING, "_weight_qdata is stored as F16"),
    (packed_without_codes, PACKING, "_weight_qdata is missing"),
    (dense_copy, PACKING, "stored dense, and the metadata or its parts say it is packed"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "kind", "reason"), OF_TORCHAO)
def test_a_defect_of_torchao_is_one_line(
    edit: Callable[[Tensors], None], kind: str, reason: str, tmp_path: Path
) -> None:
    folder = restore("torchao-int8", tmp_path / "subject")
    edit_tensors(folder, edit)

    (defect,) = open_checkpoint(folder).check()

    assert (defect.tensor, defect.kind) == (f"{UP}.weight", kind)
    assert reason in defect.reason
    assert "\n" not in defect.reason


def test_metadata_that_omits_a_packed_tensor_is_a_defect(tmp_path: Path) -> None:
    folder = restore("torchao-int8", tmp_path / "subject")
    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})

    assert len({defect.tensor for defect in open_checkpoint(folder).check()}) == 28


def test_another_class_of_torchao_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = restore("torchao-int8", tmp_path / "subject")
    path = folder / "model.safetensors"
    metadata = {"format": "pt", f"{UP}.weight": json.dumps({"_type": "Float8Tensor", "_data": {}})}
    save_file(load_file(path), path, metadata=metadata)

    with pytest.raises(CheckpointError, match="Float8Tensor"):
        open_checkpoint(folder)


LOW, HIGH = f"base_model.model.{UP}.lora_A.weight", f"base_model.model.{UP}.lora_B.weight"


def edit_adapter(folder: Path, edit: Callable[[Tensors], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def becomes(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name] = change(tensors[name])

    return edit


def loses(name: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        del tensors[name]

    return edit


def unknown_module(tensors: Tensors) -> None:
    for name in (LOW, HIGH):
        tensors[name.replace("layers.0", "layers.9")] = tensors[name].clone()


OF_ADAPTERS = [
    (loses(LOW), "lora_A is missing"),
    (loses(HIGH), "lora_B is missing"),
    (becomes(LOW, lambda one: one[:-1]), "which have no product"),
    (becomes(LOW, lambda one: one[:, :-1]), "the baseline's tensor [384, 128]"),
    (becomes(HIGH, lambda one: one[:-1]), "the baseline's tensor [384, 128]"),
    (becomes(LOW, lambda one: one * float("nan")), "lora_A: 1024 values are not finite"),
    (becomes(LOW, lambda one: one.to(torch.int8)), "lora_A is stored as I8"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "kind", "reason"),
    [
        (part_is("_weight_scale", 0.0), SCALE, "_weight_scale: 1 of 1536 values is zero"),
        (part_is("_weight_scale", float("inf")), SCALE, "_weight_scale: 1 of 1536 values is not finite"),
        (part_is("_weight_qdata", 100), PACKING, "1 codes need more than the 4 bits"),
        (without("_weight_scale"), SCALE, "_weight_scale is missing"),
        (without("_weight_qdata"), PACKING, "_weight_qdata is missing"),
        (cut("_weight_scale"), SCALE, "_weight_scale has shape [383, 4], not [384, 4]"),
        (retyped("_weight_scale", torch.int8), SCALE, "_weight_scale is stored as I8"),
        (retyped("_weight_qdata", torch.bfloat16), PACKING, "_weight_qdata is stored as BF16"),
        (dense_copy, PACKING, "stored dense, and the metadata or its parts say it is packed"),
    ],
)
def test_a_defect_of_torchaos_four_bits_is_one_line(
    edit: Callable[[Tensors], None], kind: str, reason: str, tmp_path: Path
) -> None:
    folder = restore("torchao-int4", tmp_path / "subject")
    edit_tensors(folder, edit)

    (defect,) = open_checkpoint(folder).check()

    assert (defect.tensor, defect.kind) == (f"{UP}.weight", kind)
    assert reason in defect.reason
    assert "\n" not in defect.reason


def test_unpacked_four_bit_codes_are_reported(tmp_path: Path) -> None:
    storage = open_checkpoint(restore("torchao-int4", tmp_path / "subject")).storage()

    assert storage.quantisation is not None
    assert (storage.quantisation.bits, storage.quantisation.group_size) == (4, 32)
    assert 8 * storage.packed_bytes / storage.packed_weights > 1.75 * 4


def write_nibbles(folder: Path, edit: Callable[[Tensors], None] = lambda tensors: None) -> torch.Tensor:
    """Write one matrix as torchao's Int4Tensor, by FBGEMM's formula, and return its numbers.

    The tool's own packing needs a GPU.
    """
    weight = torch.randn(384, 4, 32, generator=torch.Generator().manual_seed(0))
    low, high = weight.amin(-1), weight.amax(-1)
    scale = (high - low) / 15
    codes = ((weight - low[..., None]) / scale[..., None]).round().clamp(0, 15).flatten(1) - 8
    scale, zero = scale.bfloat16(), (low + 8 * scale).bfloat16()
    numbers = codes * scale.float().repeat_interleave(32, 1) + zero.float().repeat_interleave(32, 1)
    nibbles = codes.to(torch.int8)
    packed = (nibbles[:, ::2] & 0xF) | (nibbles[:, 1::2] << 4)
    restore("torchao-int4", folder)
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    parts = {"qdata": packed, "scale": scale.T, "zero_point": zero.T}
    tensors |= {f"{UP}._weight_{part}": value.contiguous() for part, value in parts.items()}
    about = {
        "block_size": [1, 32],
        "shape": [384, 128],
        "activation_dtype": {"_type": "torch.dtype", "_data": "bfloat16"},
    }
    metadata[f"{UP}.weight"] = json.dumps({"_type": "Int4Tensor", "_data": about, "_tensor_data_names": list(parts)})
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    assert (numbers - weight.flatten(1)).abs().max() < 0.6 * float(scale.max())
    return numbers.bfloat16()


def test_two_codes_a_byte_are_read_by_the_documented_formula(tmp_path: Path) -> None:
    numbers = write_nibbles(tmp_path / "subject")

    checkpoint = open_checkpoint(tmp_path / "subject")

    assert checkpoint.check() == ()
    assert torch.equal(checkpoint.read(f"{UP}.weight"), numbers)


@pytest.mark.parametrize(
    ("edit", "kind", "reason"),
    [
        (part_is("_weight_scale", 0.0), SCALE, "_weight_scale: 1 of 1536 values is zero"),
        (part_is("_weight_zero_point", float("nan")), SCALE, "_weight_zero_point: 1 of 1536 values are not finite"),
        (without("_weight_zero_point"), SCALE, "_weight_zero_point is missing"),
        (without("_weight_scale"), SCALE, "_weight_scale is missing"),
        (cut("_weight_scale"), SCALE, "_weight_scale has shape [3, 384], not [4, 384]"),
        (without("_weight_qdata"), PACKING, "_weight_qdata is missing"),
        (retyped("_weight_qdata", torch.int32), PACKING, "_weight_qdata is stored as I32"),
    ],
)
def test_a_defect_of_two_codes_a_byte_is_one_line(
    edit: Callable[[Tensors], None], kind: str, reason: str, tmp_path: Path
) -> None:
    write_nibbles(tmp_path / "subject", edit)

    (defect,) = open_checkpoint(tmp_path / "subject").check()

    assert (defect.tensor, defect.kind) == (f"{UP}.weight", kind)
    assert reason in defect.reason


def test_scales_of_inputs_are_refused_by_name(tmp_path: Path) -> None:
    def scaled(tensors: Tensors) -> None:
        tensors[f"{UP}._weight_act_pre_scale"] = torch.ones(128)

    write_nibbles(tmp_path / "subject", scaled)

    with pytest.raises(CheckpointError, match="inputs are multiplied"):
        open_checkpoint(tmp_path / "subject")


@pytest.mark.parametrize(("edit", "reason"), OF_ADAPTERS)
def test_a_defect_of_an_adapter_is_one_line(edit: Callable[[Tensors], None], reason: str, tmp_path: Path) -> None:
    base = write_baseline("qwen2-tiny", tmp_path / "baseline")
    folder = restore("peft-lora", tmp_path / "subject")
    edit_adapter(folder, edit)

    (defect,) = open_checkpoint(folder, base).check()

    assert defect.tensor == f"{UP}.weight"
    assert reason in defect.reason
    assert "\n" not in defect.reason


def test_an_adapter_of_another_model_names_what_the_baseline_lacks(tmp_path: Path) -> None:
    base = write_baseline("qwen2-tiny", tmp_path / "baseline")
    folder = restore("peft-lora", tmp_path / "subject")
    edit_adapter(folder, unknown_module)

    (defect,) = open_checkpoint(folder, base).check()

    assert defect.reason == "the adapter changes it, and the baseline has no such tensor"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"bias": "all"}, "bias"),
        ({"lora_alpha": "much"}, "much"),
        ({"alpha_pattern": {"layers.*": 2}}, "patterns"),
    ],
)
def test_an_adapter_that_is_merged_in_another_way_is_refused(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    base = write_baseline("qwen2-tiny", tmp_path / "baseline")
    folder = restore("peft-lora", tmp_path / "subject")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))

    with pytest.raises(CheckpointError, match=named) as raised:
        open_checkpoint(folder, base)

    assert "\n" not in str(raised.value)


def test_an_adapter_alone_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="merge"):
        open_checkpoint(restore("peft-lora", tmp_path / "subject"))


EMBED, HEAD, Q = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight"


def own_adapter(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """Write a LoRA adapter with the named tensors, given without PEFT's prefix."""
    folder.mkdir()
    save_file(
        {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    stated = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    return folder


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) / 16


@pytest.mark.parametrize(
    ("rank", "config", "scale"),
    [
        (2, {}, 3.0),
        (4, {"rank_pattern": {"q_proj": 4}}, 1.5),
        (4, {"rank_pattern": {"layers.0.self_attn.q_proj": 4, "q_proj": 2}, "alpha_pattern": {"q_proj": 2}}, 0.5),
        (4, {"rank_pattern": {"q_proj": 4}, "use_rslora": True}, 3.0),
        (2, {"rank_pattern": {"other_q_proj": 4}}, 3.0),
        (8, {"r": None}, 0.75),
    ],
)
def test_the_rank_in_the_config_scales_the_change(
    rank: int, config: dict[str, Any], scale: float, tmp_path: Path
) -> None:
    base = write_baseline("mistral-tiny", tmp_path / "baseline")
    weight = load_file(base / "model.safetensors")[Q]
    low, high = drawn(rank, weight.shape[1]), drawn(weight.shape[0], rank)
    parts = {f"{Q.removesuffix('.weight')}.lora_A.weight": low, f"{Q.removesuffix('.weight')}.lora_B.weight": high}
    folder = own_adapter(tmp_path / "subject", parts, **config)
    if config.get("r", 2) is None:
        stated = json.loads((folder / "adapter_config.json").read_bytes())
        del stated["r"]
        (folder / "adapter_config.json").write_text(json.dumps(stated))

    checkpoint = open_checkpoint(folder, base)

    assert checkpoint.check() == ()
    assert torch.equal(checkpoint.read(Q), (weight.float() + (high @ low) * scale).to(weight.dtype))


@pytest.mark.parametrize(
    ("config", "stated"),
    [
        ({"r": 64}, "64"),
        ({"rank_pattern": {"q_proj": 8}}, "8"),
        ({"rank_pattern": {"q_proj": "two"}}, "two"),
        ({"r": 0}, "0"),
        ({"r": None}, "None"),
    ],
)
def test_a_rank_that_is_not_the_matrices_is_a_defect(config: dict[str, Any], stated: str, tmp_path: Path) -> None:
    base = write_baseline("mistral-tiny", tmp_path / "baseline")
    rows, columns = load_file(base / "model.safetensors")[Q].shape
    module = Q.removesuffix(".weight")
    parts = {f"{module}.lora_A.weight": drawn(2, columns), f"{module}.lora_B.weight": drawn(rows, 2)}

    (defect,) = open_checkpoint(own_adapter(tmp_path / "subject", parts, **config), base).check()

    assert (defect.tensor, defect.kind) == (Q, PACKING)
    assert defect.reason == f"lora_A has rank 2, and adapter_config.json says {stated}"


def test_embedding_layers_that_an_adapter_stores_whole_replace_the_baselines(tmp_path: Path) -> None:
    base = write_baseline("mistral-tiny", tmp_path / "baseline")
    weights = load_file(base / "model.safetensors")
    rows, columns = weights[HEAD].shape
    low, high, trained = drawn(2, columns), drawn(rows, 2), weights[EMBED].float() * 2
    change = {"lm_head.lora_A.weight": low, "lm_head.lora_B.weight": high}
    same = own_adapter(tmp_path / "same", {**change, "lm_head.base_layer.weight": weights[HEAD], EMBED: weights[EMBED]})
    other = own_adapter(tmp_path / "other", {**change, "lm_head.base_layer.weight": weights[HEAD], EMBED: trained})
    changed_head = (weights[HEAD].float() + (high @ low) * 3.0).to(weights[HEAD].dtype)

    first, second = (open_checkpoint(folder, base) for folder in (same, other))

    assert first.check() == second.check() == ()
    assert torch.equal(first.read(EMBED), weights[EMBED])
    assert torch.equal(second.read(EMBED), trained.to(weights[EMBED].dtype))
    assert torch.equal(first.read(HEAD), changed_head)
    assert torch.equal(first.read(Q), weights[Q])


def test_an_embedding_may_be_changed_like_a_matrix(tmp_path: Path) -> None:
    base = write_baseline("mistral-tiny", tmp_path / "baseline")
    weights = load_file(base / "model.safetensors")
    rows, columns = weights[EMBED].shape
    low, high = drawn(2, rows), drawn(columns, 2)
    parts = {"lora_embedding_A": low, "lora_embedding_B": high, "base_layer.weight": weights[EMBED]}
    folder = own_adapter(tmp_path / "subject", {f"model.embed_tokens.{name}": one for name, one in parts.items()})

    checkpoint = open_checkpoint(folder, base)

    assert checkpoint.check() == ()
    assert torch.equal(checkpoint.read(EMBED), (weights[EMBED].float() + (high @ low).mT * 3.0).bfloat16())


def test_a_whole_tensor_that_peft_would_not_load_is_not_read(tmp_path: Path) -> None:
    base = write_baseline("mistral-tiny", tmp_path / "baseline")
    weights = load_file(base / "model.safetensors")
    rows, columns = weights[HEAD].shape
    low, high = drawn(2, columns), drawn(rows, 2)
    parts = {"lm_head.lora_A.weight": low, "lm_head.lora_B.weight": high}
    beside = own_adapter(tmp_path / "beside", {**parts, HEAD: weights[HEAD] * 2})
    alone = own_adapter(tmp_path / "alone", {"lm_head.base_layer.weight": weights[HEAD]})
    unknown = own_adapter(tmp_path / "unknown", {"model.other.weight": weights[HEAD]})
    bare = own_adapter(tmp_path / "bare", {})
    save_file({HEAD: weights[HEAD]}, bare / "adapter_model.safetensors", metadata={"format": "pt"})

    read = open_checkpoint(beside, base)
    found = [open_checkpoint(folder, base).check() for folder in (alone, unknown, bare)]

    assert read.check() == ()
    assert torch.equal(read.read(HEAD), (weights[HEAD].float() + (high @ low) * 3.0).bfloat16())
    assert [[defect.tensor for defect in defects] for defects in found] == [[HEAD], ["model.other.weight"], [HEAD]]


@pytest.mark.parametrize(
    ("model", "tensors", "named"),
    [
        ("mistral-tiny", {EMBED: torch.zeros(1032, 128)}, "its own model.embed_tokens.weight has shape"),
        ("mistral-tiny", {EMBED: torch.zeros(1024, 128, dtype=torch.int8)}, "is stored as I8"),
        ("qwen2-tiny", {"lm_head.lora_A.weight": torch.zeros(2, 128)}, "ties to its embedding"),
        ("qwen2-tiny", {"lm_head.base_layer.weight": torch.zeros(1024, 128)}, "ties to its embedding"),
    ],
)
def test_embedding_layers_that_cannot_be_merged_are_refused(
    model: str, tensors: Tensors, named: str, tmp_path: Path
) -> None:
    base = write_baseline(model, tmp_path / "baseline")

    with pytest.raises(CheckpointError, match=named) as raised:
        open_checkpoint(own_adapter(tmp_path / "subject", tensors), base)

    assert "\n" not in str(raised.value)


def with_groups_of_64(tensors: Tensors, module: str) -> None:
    """Give two groups of 32 inputs the scales and zero points of the first."""
    for part in ("scales", "qzeros"):
        tensors[f"{module}.{part}"] = tensors[f"{module}.{part}"][::2]
    if f"{module}.g_idx" in tensors:
        tensors[f"{module}.g_idx"] = tensors[f"{module}.g_idx"] // 2


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gptq", {"dynamic": {r".*\.0\.mlp\.up_proj": {"group_size": 64}}}),
        ("gptq", {"dynamic": {r"+:model\.layers\.0\.mlp\.up_.*": {"bits": 4, "group_size": 64, "desc_act": True}}}),
        ("gptq", {"dynamic": {r"-:.*lm_head": {}, UP: {"group_size": 64}, ".*up_proj": {"group_size": 128}}}),
        ("auto-round", {"extra_config": {UP: {"bits": 4, "group_size": 64, "sym": True}}}),
        ("auto-round", {"extra_config": {UP: {"group_size": 64}, ".*up_proj.*": {"bits": 4, "group_size": 128}}}),
        ("auto-round", {"extra_config": {r".*layers\.0\.mlp\.up_proj.*": {"group_size": 64}}}),
        # written for other names than the files have
        ("auto-round", {"extra_config": {f"language_model.{UP}": {"group_size": 64}}}),
    ],
)
def test_the_group_size_of_single_modules_is_read_from_the_config(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    others = [module for module in changes.get("dynamic", {}) | changes.get("extra_config", {}) if "up_proj" in module]
    folder, whole = restore(name, tmp_path / "subject"), restore(name, tmp_path / "whole")
    edit_tensors(folder, lambda tensors: with_groups_of_64(tensors, UP))
    for layer in (1, 2, 3) if len(others) > 1 else ():
        edit_tensors(folder, partial(one_group, module=f"model.layers.{layer}.mlp.up_proj"))
    edit_quantisation(folder, **changes)
    modules = sorted({key.removesuffix(".scales") for key in load_file(whole / "model.safetensors") if "scales" in key})
    for module in modules:
        edit_tensors(whole, partial(with_groups_of_64, module=module))
    edit_quantisation(whole, group_size=64)

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == open_checkpoint(whole).check() == ()
    assert torch.equal(checkpoint.read(f"{UP}.weight"), open_checkpoint(whole).read(f"{UP}.weight"))
    quantisation = checkpoint.storage().quantisation
    assert quantisation is not None
    assert (quantisation.bits, quantisation.group_size) == (4, None)


def one_group(tensors: Tensors, module: str) -> None:
    """Give all inputs of a module the scales and zero points of the first group."""
    for part in ("scales", "qzeros"):
        tensors[f"{module}.{part}"] = tensors[f"{module}.{part}"][:1]
    if f"{module}.g_idx" in tensors:
        tensors[f"{module}.g_idx"] = tensors[f"{module}.g_idx"] * 0


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("gptq", {}, "qzeros has shape [2, 48], not [4, 48]"),
        ("gptq", {"dynamic": {r".*\.0\.mlp\.up_proj": {"group_size": 128}}}, "qzeros has shape [2, 48], not [1, 48]"),
        ("gptq", {"dynamic": {r".*\.0\.mlp\.up_proj": {"bits": 8}}}, "config.json says 8 bits"),
        ("auto-round", {"extra_config": {UP: {"bits": 8, "group_size": 64}}}, "config.json says 8 bits"),
        ("auto-round", {"extra_config": {UP: {"group_size": 16}}}, "qzeros has shape [2, 48], not [8, 48]"),
        (
            "gptq",
            {"dynamic": {r"-:.*\.0\.mlp\.up": {}, ".*up_proj": {"group_size": 64}}},
            "packed, and config.json says it is left as it was",
        ),
    ],
)
def test_a_module_that_contradicts_its_own_settings_is_a_defect(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = restore(name, tmp_path / "subject")
    edit_tensors(folder, lambda tensors: with_groups_of_64(tensors, UP))
    edit_quantisation(folder, **changes)

    found = [defect.reason for defect in open_checkpoint(folder).check() if defect.tensor == f"{UP}.weight"]

    assert any(reason in one for one in found), found


def test_awq_for_exllama_is_stored_as_gemm(tmp_path: Path) -> None:
    gemm, folder = open_checkpoint(restore("awq", tmp_path / "gemm")), restore("awq", tmp_path / "exllama")
    edit_quantisation(folder, version="exllama")

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert all(torch.equal(checkpoint.read(name), gemm.read(name)) for name in gemm.files.entries)


@pytest.mark.parametrize("name", ["gptq", "gptq-3bit", "gptq-asym", "awq", "auto-round"])
def test_a_scale_of_zero_is_right_where_its_group_is_zero_in_the_baseline(name: str, tmp_path: Path) -> None:
    folder, base = restore(name, tmp_path / "subject"), write_baseline(baseline_of(name), tmp_path / "base")
    edit_tensors(folder, scale_is(0.0))

    def kill(tensors: Tensors) -> None:
        tensors[f"{UP}.weight"][0, :32] = 0

    def zero_more_scales(tensors: Tensors) -> None:
        tensors[f"{UP}.scales"][1] = 0

    assert [defect.tensor for defect in open_checkpoint(folder, base).check()] == [f"{UP}.weight"]
    edit_tensors(base, kill)

    assert open_checkpoint(folder, base).check() == ()
    edit_tensors(folder, zero_more_scales)
    assert [defect.tensor for defect in open_checkpoint(folder, base).check()] == [f"{UP}.weight"]
