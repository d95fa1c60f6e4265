"""Make the checkpoints of this folder again, each with its real tool. Run by hand, in an environment of the tool's own.

Example::

    python tests/data/shipped/make.py bitsandbytes-nf4

``PROVENANCE.md`` lists the environment of each. Everything runs on a CPU and without a network.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

import torch
from shipped_checkpoints import EMBEDDED, keep, write_baseline

QWEN, MISTRAL = "qwen2-tiny", "mistral-tiny"
Dense = Mapping[str, torch.Tensor]


def load_model(model: str, work: Path, **more: Any) -> tuple[Any, Any, Path]:
    """Return an embedded model, its tokenizer and its folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_baseline(model, work / "baseline")
    return AutoModelForCausalLM.from_pretrained(folder, **more), AutoTokenizer.from_pretrained(folder), folder


def calibration_texts(count: int = 64) -> list[str]:
    """Return pieces of the held-out text, about 200 tokens each."""
    text = lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes()).decode()
    return [text[start : start + 550] for start in range(0, 550 * count, 550)]


def bitsandbytes(name: str) -> None:
    """8 bits with a threshold for outliers, or 4 bits in blocks with nested scales, through transformers."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from transformers import BitsAndBytesConfig

    four = name != "bitsandbytes-int8"
    kind = "nf4" if name == "bitsandbytes-nf4" else "fp4"
    config = BitsAndBytesConfig(
        load_in_8bit=not four, load_in_4bit=four, bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=kind == "nf4", bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip

    def make(work: Path) -> tuple[Path, Dense]:
        model, tokenizer, _ = load_model(QWEN, work, quantization_config=config, dtype=torch.bfloat16, device_map="cpu")
        save(model, tokenizer, work / "packed")
        dense = {}
        for key, weight in model.named_parameters():
            if getattr(weight, "quant_state", None) is not None:
                dense[key] = dequantize_4bit(weight.data, weight.quant_state)
            elif getattr(weight, "SCB", None) is not None:
                dense[key] = int8_vectorwise_dequant(weight.data, weight.SCB)
            else:
                dense[key] = weight.data
        return work / "packed", dense

    run(name, QWEN, ("bitsandbytes", "transformers"), make)


def torchao(name: str) -> None:
    """Weights of 8 or 4 bits only, through transformers' safetensors of torchao's tensors."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    def make(work: Path) -> tuple[Path, Dense]:
        kind = Int8WeightOnlyConfig() if name == "torchao-int8" else Int4WeightOnlyConfig(
            group_size=32, int4_packing_format="plain")  # fmt: skip
        model, tokenizer, _ = load_model(
            QWEN, work, quantization_config=TorchAoConfig(kind), dtype=torch.bfloat16, device_map="cpu"
        )
        save(model, tokenizer, work / "packed")
        weights = {key: weight.data for key, weight in model.named_parameters()}
        return work / "packed", {
            key: weight if type(weight) is torch.Tensor else weight.dequantize() for key, weight in weights.items()
        }

    run(name, QWEN, ("torchao", "transformers"), make)


def compressed_tensors(name: str) -> None:
    """The schemes W8A8, W4A16 (groups of 32) and FP8_DYNAMIC of llm-compressor."""
    from compressed_tensors.compressors import ModelCompressor
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    group: dict[str, Any] = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    recipes: Mapping[str, Any] = {
        "compressed-tensors-w8a8": lambda: QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"]),
        "compressed-tensors-fp8": lambda: QuantizationModifier(
            targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"]
        ),
        "compressed-tensors-w4a16": lambda: GPTQModifier(
            config_groups={"group_0": {"targets": ["Linear"], "weights": group}}, ignore=["lm_head"]
        ),
        "compressed-tensors-w4a16-asym": lambda: QuantizationModifier(
            config_groups={"group_0": {"targets": ["Linear"], "weights": {**group, "symmetric": False}}},
            ignore=["lm_head", "re:.*layers.[123].*"],
        ),
    }

    def make(work: Path) -> tuple[Path, Dense]:
        model, tokenizer, _ = load_model(QWEN, work, dtype=torch.bfloat16)
        recipe = recipes[name]()
        tokens = [tokenizer(text, truncation=True, max_length=128) for text in calibration_texts()]
        oneshot(
            model=model, tokenizer=tokenizer, recipe=recipe, num_calibration_samples=64, max_seq_length=128,
            dataset=Dataset.from_list([dict(one) for one in tokens]),
        )  # fmt: skip
        model.save_pretrained(work / "packed", save_compressed=True)
        tokenizer.save_pretrained(work / "packed")
        from transformers import AutoModelForCausalLM

        packed = AutoModelForCausalLM.from_pretrained(work / "packed", dtype=torch.bfloat16)
        ModelCompressor.from_pretrained_model(packed).decompress_model(packed)
        return work / "packed", {key: weight.data for key, weight in packed.named_parameters() if "_scale" not in key}

    run(name, QWEN, ("llmcompressor", "compressed-tensors", "transformers"), make)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(name: str, baseline: str, tools: tuple[str, ...], make: Callable[[Path], tuple[Path, Dense]]) -> None:
    """Make one checkpoint in a temporary folder and keep it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        folder, dense = make(Path(work))
        versions = {tool: version(tool) for tool in (*tools, "torch")}
        keep(name, folder, baseline, versions, dense)
    print(json.dumps({name: versions}))


MAKERS: Mapping[str, Callable[[str], None]] = {
    "bitsandbytes-int8": bitsandbytes, "bitsandbytes-nf4": bitsandbytes, "bitsandbytes-fp4": bitsandbytes,
    "compressed-tensors-w8a8": compressed_tensors, "compressed-tensors-fp8": compressed_tensors,
    "compressed-tensors-w4a16": compressed_tensors, "compressed-tensors-w4a16-asym": compressed_tensors,
    "torchao-int8": torchao, "torchao-int4": torchao,
}  # fmt: skip

if __name__ == "__main__":
    for wanted in sys.argv[1:] or list(MAKERS):
        MAKERS[wanted](wanted)
