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
from make_gguf import make as make_gguf_file
from make_gguf import versions as gguf_versions
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
                dense[key] = int8_vectorwise_dequant(weight.data, weight.SCB).to(torch.bfloat16)
            else:
                dense[key] = weight.data
        return work / "packed", dense

    run(name, QWEN, ("bitsandbytes", "transformers"), make)


def torchao(name: str) -> None:
    """Weights of 8 bits, or of 4 in groups of 32, through transformers' safetensors of torchao's tensors."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
    from transformers import TorchAoConfig

    four = IntxWeightOnlyConfig(torch.int4, PerGroup(32))
    config = four if name == "torchao-int4" else Int8WeightOnlyConfig()

    def make(work: Path) -> tuple[Path, Dense]:
        quantisation = TorchAoConfig(config)
        model, tokenizer, _ = load_model(
            QWEN, work, quantization_config=quantisation, dtype=torch.bfloat16, device_map="cpu"
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


def auto_round(name: str) -> None:
    """GPTQ (symmetric and with zero points), AWQ and auto-round's own layout, tuned by sign descent."""
    from auto_round import AutoRound

    bits, symmetric, layout = {
        "gptq": (4, True, "auto_gptq"), "gptq-asym": (4, False, "auto_gptq"), "gptq-8bit": (8, True, "auto_gptq"),
        "gptq-3bit": (3, False, "auto_gptq"), "gptq-2bit": (2, False, "auto_gptq"),
        "awq": (4, False, "auto_awq"), "auto-round": (4, True, "auto_round"),
        "auto-round-awq": (4, False, "auto_round:auto_awq"),
    }[name]  # fmt: skip
    # the variants of a layout keep one block, the others stay as they were
    whole = name in ("gptq", "awq", "auto-round")
    kept = {} if whole else {f"model.layers.{block}.": {"bits": 16} for block in (1, 2, 3)}

    def make(work: Path) -> tuple[Path, Dense]:
        model, tokenizer, _ = load_model(QWEN, work, dtype=torch.float16)
        tokens = [tokenizer(text)["input_ids"][:128] for text in calibration_texts()]
        rounder = AutoRound(
            model, tokenizer, bits=bits, sym=symmetric, group_size=32, layer_config=kept, device_map="cpu",
            dataset=[torch.tensor([one]) for one in tokens], iters=10 if whole else 0, nsamples=16, seqlen=128,
            batch_size=8, enable_torch_compile=False,
        )  # fmt: skip
        rounder.quantize_and_save(str(work / "packed"), format=layout)
        found = next(path.parent for path in (work / "packed").rglob("config.json"))
        return found, layers_of_auto_round(found, bits, awq="awq" in name)

    run(name, QWEN, ("auto-round", "transformers"), make)


def layers_of_auto_round(folder: Path, bits: int, *, awq: bool) -> Dense:
    """Return what auto-round's own layers compute with: its AWQ function, or its layers applied to the unit matrix."""
    from auto_round.export.export_to_awq.utils import dequantize_gemm
    from auto_round_extension.torch import qlinear_torch_zp
    from safetensors.torch import load_file

    stored: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored |= load_file(path)
    dense = {key: value for key, value in stored.items() if key.rpartition(".")[2] in ("weight", "bias")}
    for module in sorted({key.removesuffix(".qweight") for key in stored if key.endswith(".qweight")}):
        parts = {part: stored[f"{module}.{part}"] for part in ("qweight", "qzeros", "scales")}
        if awq:
            dense[f"{module}.weight"] = dequantize_gemm(**parts, bits=bits, group_size=32).T
            continue
        rows = parts["qweight"].shape[0] * 32 // bits
        layer = qlinear_torch_zp.QuantLinear(bits, 32, rows, parts["scales"].shape[1], bias=False)
        for part, value in parts.items():
            setattr(layer, part, value)
        dense[f"{module}.weight"] = layer(torch.eye(rows)).T.to(parts["scales"].dtype)
    return dense


def peft(name: str) -> None:
    """A LoRA adapter of rank 8, trained for a few steps, and the model as peft merges it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM",
        use_rslora=name == "peft-rslora", alpha_pattern={"up_proj": 4} if name == "peft-lora" else {},
    )  # fmt: skip

    def make(work: Path) -> tuple[Path, Dense]:
        model, tokenizer, _ = load_model(QWEN, work, dtype=torch.bfloat16)
        tuned = get_peft_model(model, config)
        optimiser = torch.optim.AdamW([one for one in tuned.parameters() if one.requires_grad], lr=1e-3)
        for text in calibration_texts(8):
            tokens = torch.tensor([tokenizer(text)["input_ids"][:128]])
            tuned(input_ids=tokens, labels=tokens).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        tuned.save_pretrained(work / "packed")
        merged = tuned.merge_and_unload()
        return work / "packed", {key: weight.data for key, weight in merged.named_parameters()}

    run(name, QWEN, ("peft", "transformers"), make)


def compressed_tensors_alone(name: str) -> None:
    """The schemes NVFP4A16, MXFP4A16 and FP8_BLOCK without llm-compressor; scales from the extremes."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
        preset_name_to_scheme,
    )  # fmt: skip
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    preset, stored = {
        "compressed-tensors-nvfp4": ("NVFP4A16", "nvfp4-pack-quantized"),
        "compressed-tensors-mxfp4": ("MXFP4A16", "mxfp4-pack-quantized"),
        "compressed-tensors-fp8-block": ("FP8_BLOCK", "float-quantized"),
    }[name]

    def extremes(weight: torch.Tensor, args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if args.strategy == "block":
            high, wide = args.block_structure
            blocks = weight.unflatten(1, (-1, wide)).unflatten(0, (-1, high))
            return blocks.amin((1, 3)), blocks.amax((1, 3))
        groups = weight.unflatten(-1, (-1, args.group_size))
        return groups.amin(-1), groups.amax(-1)

    def make(work: Path) -> tuple[Path, Dense]:
        model, tokenizer, _ = load_model(QWEN, work, dtype=torch.bfloat16)
        scheme = preset_name_to_scheme(preset, ["Linear"])
        if scheme.weights.strategy == "block":
            scheme.weights.block_structure = [32, 64]
        ignore = ["lm_head", "re:.*layers.[123].*"]
        config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=ignore, format=stored)
        apply_quantization_config(model, config)
        for module in model.modules():
            if not hasattr(module, "weight_scale"):
                continue
            low, high = extremes(module.weight.data, scheme.weights)
            whole = None
            if hasattr(module, "weight_global_scale"):
                whole = generate_gparam(low.amin().reshape(1), high.amax().reshape(1))
                module.weight_global_scale.data.copy_(whole)
            more = {} if whole is None else {"global_scale": whole}
            module.weight_scale.data.copy_(calculate_qparams(low, high, scheme.weights, **more)[0])
            module.quantization_status = QuantizationStatus.FROZEN
        compressor = ModelCompressor.from_pretrained_model(model, stored)
        compressor.compress_model(model)
        save(model, tokenizer, work / "packed")
        compressor.update_config(work / "packed")
        compressor.decompress_model(model)
        return work / "packed", {key: weight.data for key, weight in model.named_parameters() if "_scale" not in key}

    run(name, QWEN, ("compressed-tensors", "transformers"), make)


# What a GGUF file was made from, as what llama.cpp calls it, and as which architecture it stores it.
GGUF_FILES: Mapping[str, tuple[str, str, str]] = {
    "gguf-q4_0": (MISTRAL, "q4_0", "llama"), "gguf-q4_1": (QWEN, "q4_1", "qwen2"),
    "gguf-experts-q4_0": ("mixtral-tiny", "q4_0", "llama"), "gguf-q4_k_m": ("llama-256", "q4_k_m", "llama"),
    "gguf-q2_k": ("llama-256", "q2_k", "llama"), "gguf-qwen3-q8_0": ("qwen3-64", "q8_0", "qwen3"),
    "gguf-gemma3-q8_0": ("gemma3-64", "q8_0", "gemma3"),
}  # fmt: skip


def gguf_file(name: str) -> None:
    """A GGUF file by llama.cpp's converter and quantiser."""
    baseline, kind, architecture = GGUF_FILES[name]
    with tempfile.TemporaryDirectory() as work:
        folder = write_baseline(baseline, Path(work) / "baseline")
        packed, dense = make_gguf_file(folder, Path(work), kind, architecture)
        keep(name, packed, baseline, gguf_versions(), dense)
    print(json.dumps({name: gguf_versions()}))


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
    "gptq": auto_round, "gptq-asym": auto_round, "gptq-8bit": auto_round, "gptq-3bit": auto_round,
    "gptq-2bit": auto_round, "awq": auto_round, "auto-round": auto_round, "auto-round-awq": auto_round,
    "compressed-tensors-nvfp4": compressed_tensors_alone, "compressed-tensors-mxfp4": compressed_tensors_alone,
    "compressed-tensors-fp8-block": compressed_tensors_alone,
    "peft-lora": peft, "peft-rslora": peft,
    "torchao-int8": torchao, "torchao-int4": torchao, **dict.fromkeys(GGUF_FILES, gguf_file),
}  # fmt: skip

if __name__ == "__main__":
    for wanted in sys.argv[1:] or list(MAKERS):
        MAKERS[wanted](wanted)
