"""Whose numbers a checkpoint holds, decided before PyTorch is imported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import python
from safetensors.torch import load_file, save_file

from invarlock.checkpoints.storage_format import KNOWN, check_dense
from invarlock.errors import CheckpointError

TinyModels = Callable[..., Path]


@pytest.fixture
def folder(tiny_model: TinyModels, tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), target)
    return target


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def add_tensor(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), name: tensor}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_stored_as_they_are_need_no_reader(tiny_model: TinyModels, dtype: str) -> None:
    assert check_dense(tiny_model("llama", dtype=dtype)).model_type == "llama"


def test_float8_without_scales_is_dense(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: weight.to(torch.float8_e4m3fn) for name, weight in load_file(path).items()}, path)

    assert {entry.dtype for entry in check_dense(folder).entries.values()} == {"F8_E4M3"}


@pytest.mark.parametrize("method", KNOWN)
def test_a_packed_format_is_refused_by_its_name_and_its_tool(folder: Path, method: str) -> None:
    edit_config(folder, quantization_config={"quant_method": method})

    with pytest.raises(CheckpointError) as raised:
        check_dense(folder)

    message = str(raised.value)
    assert KNOWN[method].name in message
    assert KNOWN[method].tools in message
    assert "dequantised" in message or "name the model that was quantised" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "of-tomorrow"}, "'of-tomorrow'"),
        ({"bits": 4}, "an unnamed method"),
        ("int4", "an unnamed method"),
    ],
)
def test_an_unknown_format_is_refused_too(folder: Path, stated: object, named: str) -> None:
    edit_config(folder, quantization_config=stated)

    with pytest.raises(CheckpointError, match=named):
        check_dense(folder)


def test_an_empty_quantization_config_counts_as_absent(folder: Path) -> None:
    edit_config(folder, quantization_config=None)

    assert check_dense(folder).entries


@pytest.mark.parametrize(
    ("name", "document", "named"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "GPTQ"),
        ("quant_config.json", {"w_bit": 4}, "AWQ"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}}, "ModelOpt"),
    ],
)
def test_a_quantisers_own_file_counts(folder: Path, name: str, document: object, named: str) -> None:
    (folder / name).write_text(json.dumps(document))

    with pytest.raises(CheckpointError, match=named):
        check_dense(folder)


@pytest.mark.parametrize(
    "stated",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "of-tomorrow"},
    ],
)
def test_the_field_that_dequantising_left_over_is_named(folder: Path, stated: dict[str, Any]) -> None:
    edit_config(folder, quantization_config=stated)

    with pytest.raises(
        CheckpointError, match=r"no tensor is packed, and the quantization_config in config\.json"
    ) as raised:
        check_dense(folder)

    assert str(raised.value).endswith("if they were dequantised, remove that field")
    add_tensor(folder, "model.layers.0.mlp.up_proj.qweight", torch.ones(4, dtype=torch.int32))
    with pytest.raises(CheckpointError) as raised:
        check_dense(folder)
    assert "no tensor is packed" not in str(raised.value)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_the_file_that_dequantising_left_over_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"bits": 4, "group_size": 128}))

    with pytest.raises(CheckpointError, match=f"no tensor is packed, and {name} says .* remove that file"):
        check_dense(folder)


def test_an_export_of_modelopt_without_quantisation_is_dense(folder: Path) -> None:
    document: dict[str, Any] = {"quantization": {"quant_algo": None, "kv_cache_quant_algo": None}}
    (folder / "hf_quant_config.json").write_text(json.dumps(document))

    assert check_dense(folder).entries
    document["quantization"]["quant_algo"] = "FP8"
    (folder / "hf_quant_config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"hf_quant_config\.json says that the weights are stored as ModelOpt"):
        check_dense(folder)


@pytest.mark.parametrize(
    ("suffix", "named"),
    [
        ("qweight", "GPTQ"),
        ("weight_packed", "compressed-tensors"),
        ("weight_scale_inv", "block FP8"),
        ("weight_scale", "compressed-tensors"),
        ("SCB", "bitsandbytes"),
        ("weight._data", "quanto"),
        ("weight._scale", "quanto"),
    ],
)
def test_packed_tensors_without_a_config_are_seen(folder: Path, suffix: str, named: str) -> None:
    add_tensor(folder, f"model.layers.0.mlp.up_proj.{suffix}", torch.ones(4))

    with pytest.raises(CheckpointError, match=named):
        check_dense(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_next_to_a_model_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{}")

    with pytest.raises(CheckpointError, match="transformers applies it where peft is installed"):
        check_dense(folder)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"transformers_weights": "other.safetensors"}),
        ("config.json", {"configuration_files": ["config.4.0.0.json"]}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.0.json"]}),
    ],
)
def test_a_config_that_names_other_files_is_refused(folder: Path, name: str, changes: dict[str, object]) -> None:
    path = folder / name
    document = json.loads(path.read_bytes()) if path.is_file() else {}
    path.write_text(json.dumps({**document, **changes}))

    with pytest.raises(CheckpointError, match=f"{next(iter(changes))} is "):
        check_dense(folder)


def test_a_config_that_names_the_checkpoints_own_files_is_not_refused(folder: Path) -> None:
    edit_config(folder, transformers_weights="model.safetensors", configuration_files=[])

    assert check_dense(folder).entries


def test_an_adapter_alone_and_a_gguf_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/model-Q4_K_M.gguf").write_bytes(b"GGUF")

    with pytest.raises(CheckpointError, match="merge_and_unload"):
        check_dense(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"Q4_K_M\.gguf: a GGUF file is read under"):
        check_dense(tmp_path / "gguf")


@pytest.mark.parametrize(("prefix", "wrapper"), [("_orig_mod.", "torch.compile"), ("module.", "DistributedData")])
def test_names_of_a_wrapper_are_refused(folder: Path, prefix: str, wrapper: str) -> None:
    path = folder / "model.safetensors"
    save_file({f"{prefix}{name}": weight for name, weight in load_file(path).items()}, path)

    with pytest.raises(CheckpointError, match=wrapper):
        check_dense(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**8},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": "many"},
        {"num_experts": 10**9},
        {"vocab_size": 10**12},
        {"hidden_size": 0},
        {"intermediate_size": -4},
        {"vocab_size": 1 << 28},
        {"num_attention_heads": 0},
        {"num_key_value_heads": "all"},
        {"head_dim": 10**12},
        {"rope_parameters": "x"},
        {"rope_scaling": [1]},
    ],
)
def test_a_config_that_claims_more_than_the_files_hold_is_refused_at_once(
    folder: Path, changes: dict[str, object]
) -> None:
    edit_config(folder, **changes)

    with pytest.raises(CheckpointError, match=f"{next(iter(changes))} is "):
        check_dense(folder)


def test_a_format_is_named_without_pytorch(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "awq"})
    (tmp_path / "text.txt").write_text("text")
    code = (
        "import sys\nfrom invarlock.cli import main\n"
        "code = main(sys.argv[1:])\nsys.exit(99 if 'torch' in sys.modules else code)"
    )
    given = ("evaluate", "--baseline", folder, "--subject", folder, "--text", tmp_path / "text.txt")

    done = python("-c", code, *given, "--output-dir", tmp_path / "out")

    assert (done.returncode, "AWQ" in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("scale", ["scale", "scales", "weight_scales"])
def test_float8_next_to_scales_of_any_name_is_packed(folder: Path, scale: str) -> None:
    add_tensor(folder, f"model.layers.0.mlp.up_proj.{scale}", torch.ones(4))
    check_dense(folder)

    name = "model.layers.0.mlp.up_proj.weight"
    add_tensor(folder, name, load_file(folder / "model.safetensors")[name].to(torch.float8_e4m3fn))
    with pytest.raises(CheckpointError, match="block FP8"):
        check_dense(folder)
