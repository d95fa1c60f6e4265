"""GGUF files by llama.cpp: its converter, its quantiser, and the values that its C code dequantises.

``LLAMA_CPP`` names the folder ``vendor/llama.cpp`` of the source distribution of llama-cpp-python, which holds the
converter, and ``LLAMA_LIBRARIES`` the folder ``bins/linux-x64`` of the npm package @node-llama-cpp/linux-x64.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

LLAMA_CPP = Path(os.environ.get("LLAMA_CPP", "llama.cpp"))
LIBRARIES = Path(os.environ.get("LLAMA_LIBRARIES", "bins/linux-x64"))
CONVERTER_VERSION, LIBRARIES_VERSION = "0.3.36", "3.22.1"
# The first argument is what llama.cpp calls the mixture, the second its number.
FILE_TYPES = {"q4_0": 2, "q4_1": 3, "q8_0": 7, "q2_k": 10, "q4_k_m": 15}
# The embedded tokenizer is none of those that the converter knows by a digest; "gpt-2" is what it splits text like. The
# class that transformers has for Qwen2 would add a token to it.
CONVERT = """
import runpy, sys
sys.path[:0] = [{folder!r}, {gguf!r}]
import transformers
from conversion.base import TextModel
transformers.AutoTokenizer = transformers.PreTrainedTokenizerFast
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert_hf_to_gguf.py", {source!r}, "--outtype", {kind!r}, "--outfile", {target!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


class _Options(ctypes.Structure):
    # what follows the first two is left as the library sets it; there is room for more than it has
    _fields_ = (("threads", ctypes.c_int32), ("file_type", ctypes.c_int32), ("rest", ctypes.c_char * 504))


class _Traits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64),
        ("size", ctypes.c_size_t), ("quantised", ctypes.c_bool), ("to_float", ctypes.c_void_p),
    )  # fmt: skip


def convert(baseline: Path, target: Path, kind: str) -> None:
    """Write a GGUF file of a model with llama.cpp's converter, in a process of its own."""
    program = CONVERT.format(
        folder=str(LLAMA_CPP), gguf=str(LLAMA_CPP / "gguf-py"), source=str(baseline), kind=kind, target=str(target),
        script=str(LLAMA_CPP / "convert_hf_to_gguf.py"),
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", program], check=True)


def quantise(source: Path, target: Path, kind: str) -> None:
    """Quantise a GGUF file with llama.cpp's library."""
    library = _library("libllama")
    library.llama_model_quantize_default_params.restype = _Options
    options = library.llama_model_quantize_default_params()
    options.threads, options.file_type = 1, FILE_TYPES[kind]
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)) != 0:
        raise SystemExit(f"llama.cpp does not quantise {source} to {kind}")


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(next(iter(sorted(LIBRARIES.glob(f"{name}.*"))))))


def dequantised(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a GGUF file by its own names, as llama.cpp's C code reads them, in float32."""
    import gguf

    library = _library("libggml-base")
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            found[tensor.name] = torch.from_numpy(np.array(tensor.data))
            continue
        raw = np.ascontiguousarray(tensor.data).view(np.uint8)
        values = np.empty(shape, np.float32)
        traits = library.ggml_get_type_traits(int(tensor.tensor_type)).contents
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(traits.to_float)
        call(raw.ctypes.data, values.ctypes.data, values.size)
        found[tensor.name] = torch.from_numpy(values)
    return found


def under_baseline_names(
    found: Mapping[str, torch.Tensor], baseline: Path, architecture: str
) -> dict[str, torch.Tensor]:
    """Return tensors by the names of the baseline, with the converter's own change of rows and of norms undone."""
    import gguf
    from safetensors.torch import load_file

    sys.path[:0] = [str(LLAMA_CPP)]
    from conversion.llama import LlamaModel
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(baseline)
    arch = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    dense = {}
    for name, before in load_file(baseline / "model.safetensors").items():
        parts, expert = name.split("."), None
        if "experts" in parts:
            expert = int(parts.pop(parts.index("experts") + 1))
        merged = ".".join(parts)
        if expert is not None:
            merged = merged.replace("model.layers", "layers").replace("block_sparse_moe", "feed_forward")
        stored = names.get_name(merged, try_suffixes=(".weight", ".bias"))
        if stored not in found:
            continue
        values = found[stored] if expert is None else found[stored][expert]
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if name.endswith("q_proj.weight") else config.num_key_value_heads
            order = LlamaModel.permute(torch.arange(values.shape[0])[:, None], heads, heads).flatten()
            values = torch.empty_like(values).index_copy_(0, order, values)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values - 1
        dense[name] = values.to(before.dtype) if values.ndim == 1 or "block_sparse_moe.gate." in name else values
    return dense


def make(baseline: Path, work: Path, kind: str, architecture: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a GGUF file, and what llama.cpp reads in it."""
    folder = work / "packed"
    folder.mkdir()
    target = folder / "model.gguf"
    convert(baseline, work / "whole.gguf", "f32")
    quantise(work / "whole.gguf", target, kind)
    return folder, under_baseline_names(dequantised(target), baseline, architecture)


def versions() -> dict[str, str]:
    """Return the tools by name."""
    return {
        "llama-cpp-python": CONVERTER_VERSION, "@node-llama-cpp/linux-x64": LIBRARIES_VERSION,
        **{tool: version(tool) for tool in ("gguf", "transformers", "torch")},
    }  # fmt: skip
