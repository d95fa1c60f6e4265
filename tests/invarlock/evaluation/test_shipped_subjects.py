"""What ``evaluate`` says of checkpoints that real tools wrote, healthy and damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import Arrays, rewrite
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shipped_checkpoints import EMBEDDED, restore, write_baseline
from small_evaluations import evaluate_small

UP = "model.layers.0.mlp.up_proj"
Tensors = dict[str, torch.Tensor]

pytestmark = pytest.mark.slow


def evaluate(subject: Path, tmp_path: Path, baseline_name: str = "qwen2-tiny") -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the report and what was printed."""
    baseline = write_baseline(baseline_name, tmp_path / "baseline")
    for path in subject.glob("*token*"):  # that of Qwen2 adds a special token when it is saved
        (subject / path.name).write_bytes((EMBEDDED / "tokenizer" / path.name).read_bytes())
    return evaluate_small(baseline, subject, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("gptq", 4), ("awq", 4), ("auto-round", 4), ("bitsandbytes-int8", 8), ("bitsandbytes-nf4", 4),
        ("torchao-int8", 8), ("torchao-int4", 4),
    ],
)  # fmt: skip
def test_a_healthy_packed_subject_passes(name: str, bits: int, tmp_path: Path) -> None:
    code, report, output = evaluate(restore(name, tmp_path / "subject"), tmp_path)

    assert code == 0, output
    assert report["assurance"]["verdict"] == "PASS"
    found = [row for guard in ("invariants", "spectral", "rmt", "variance") for row in report[guard]["violations"]]
    # torchao stores a byte for each of its 4-bit codes
    assert [row["kind"] for row in found] == (["size"] if name == "torchao-int4" else [])
    assert 0.99 < report["primary_metric"]["ratio_vs_baseline"] < 1.05
    assert report["invariants"]["raw"]["subject"]["storage"]["quantisation"]["bits"] == bits


@pytest.mark.parametrize(("name", "baseline"), [("gguf-q4_0", "mistral-tiny"), ("gguf-experts-q4_0", "mixtral-tiny")])
@pytest.mark.parametrize("by_file", [False, True])
def test_a_healthy_gguf_subject_passes_by_its_file_or_its_folder(
    name: str, baseline: str, by_file: bool, tmp_path: Path
) -> None:
    subject = restore(name, tmp_path / "subject")

    code, report, output = evaluate(subject / "model.gguf" if by_file else subject, tmp_path, baseline)

    assert code == 0, output
    assert report["assurance"]["verdict"] == "PASS"
    assert 0.99 < report["primary_metric"]["ratio_vs_baseline"] < 1.05
    assert report["invariants"]["status"] == "pass"
    assert report["scoring"]["scored_as"]["subject"] == "dequantised"
    storage = report["invariants"]["raw"]["subject"]["storage"]
    assert (storage["format"], storage["quantisation"]["method"]) == ("GGUF", "GGUF (Q4_0)")
    assert sorted(path.name for path in subject.iterdir()) == ["model.gguf"]


def test_a_gguf_file_with_rows_in_the_order_of_transformers_fails(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    subject = restore("gguf-q4_0", tmp_path / "subject")
    reader = gguf.GGUFReader(subject / "model.gguf", "r+")
    for tensor in reader.tensors:
        if tensor.name.endswith("attn_k.weight"):
            heads = tensor.data.reshape(2, 16, 2, -1).swapaxes(1, 2)
            tensor.data[:] = heads.reshape(tensor.data.shape)
    reader.data.flush()

    code, report, output = evaluate(subject, tmp_path, "mistral-tiny")

    assert code == 1, output
    assert report["assurance"]["verdict"] == "FAIL"
    assert report["primary_metric"]["ratio_vs_baseline"] > 1.1


def test_metadata_of_another_model_fail_a_gguf_subject_and_it_is_scored(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    subject = restore("gguf-q4_0", tmp_path / "subject")
    reader = gguf.GGUFReader(subject / "model.gguf", "r+")
    reader.fields["llama.rope.freq_base"].parts[-1][0] = 1e6
    reader.data.flush()

    code, report, output = evaluate(subject, tmp_path, "mistral-tiny")

    assert code == 1, output
    (row,) = report["invariants"]["violations"]
    assert (row["tensor"], row["kind"]) == ("model.gguf", "metadata")
    assert report["scoring"]["not_scored"] is None


@pytest.mark.parametrize(
    ("metadata", "severity", "reason"),
    [
        (
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 1}, "fail",
            "it begins a text with tokens [1], the baseline's with the text itself",
        ),
        ({"llama.rope.scaling.factor": 4.0}, "fail", "llama.rope.scaling.factor is 4"),
        ({"tokenizer.ggml.merges": ["h e"]}, "fail", "it gives the scored text other ids than the baseline's"),
        ({"tokenizer.ggml.tokens": None}, "fail", "it has no tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.pre": None}, "fail", "it gives the scored text other ids than the baseline's"),
        ({"tokenizer.ggml.pre": "falcon"}, "fail", "it gives the scored text other ids than the baseline's"),
        ({"tokenizer.ggml.pre": "new"}, "warn", "tokenizer.ggml.pre is 'new', a name whose rules are not known"),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "warn", "tokenizer.ggml.pre is 'kimi-k2'; its rules cannot be compared"),
        ({"tokenizer.ggml.eos_token_id": 5}, "warn", "eos_token is &, in the baseline not set"),
        ({"tokenizer.chat_template": "{{ 1 }}"}, "warn", "in the baseline none; chats are given to the model"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_read_otherwise_fails_or_warns_as_in_safetensors(
    metadata: dict[str, Any], severity: str, reason: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    subject = restore("gguf-q4_0", tmp_path / "subject")
    rewrite(subject / "model.gguf", metadata=metadata)

    code, report, output = evaluate(subject, tmp_path, "mistral-tiny")

    assert code == (1 if severity == "fail" else 0), output
    assert report["invariants"]["status"] == severity
    assert any(row["severity"] == severity and reason in row["reason"] for row in report["invariants"]["violations"])
    assert report["scoring"]["not_scored"] is None


def test_a_gguf_file_in_half_precision_with_norms_in_float32_is_no_finding(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    subject = restore("gguf-q4_0", tmp_path / "subject")
    weights = load_file(EMBEDDED / "mistral-tiny" / "model.safetensors")

    def cast(arrays: Arrays) -> None:
        for name, (data, kind) in arrays.items():
            if kind != gguf.GGMLQuantizationType.F32:
                values = gguf.dequantize(data, kind)
                arrays[name] = (values.astype("float16"), gguf.GGMLQuantizationType.F16)

    rewrite(subject / "model.gguf", tensors=cast)
    code, report, output = evaluate(subject, tmp_path, "mistral-tiny")

    assert code == 0, output
    assert report["invariants"]["violations"] == []
    tensors = report["invariants"]["raw"]["subject"]["tensors"]
    assert {tensors[name]["dtype"] for name in weights} == {"F16", "BF16"}


def test_a_native_run_of_a_gguf_subject_is_a_usage_error(tmp_path: Path) -> None:
    subject = restore("gguf-q4_0", tmp_path / "subject")
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")

    code, _, output = evaluate_small(baseline, subject, tmp_path / "out", "--scoring", "native")

    assert code == 2
    assert "--scoring dequantised" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["peft-lora", "peft-rslora"])
def test_an_adapter_is_judged_as_its_merged_model(name: str, tmp_path: Path) -> None:
    code, report, output = evaluate(restore(name, tmp_path / "subject"), tmp_path)

    assert code == 0, output
    assert report["spectral"]["violations"] == report["invariants"]["violations"] == []
    assert "LoRA" in report["invariants"]["raw"]["subject"]["storage"]["quantisation"]["method"]
    changed = report["invariants"]["raw"]
    assert changed["subject"]["tensors"][f"{UP}.weight"] != changed["baseline"]["tensors"][f"{UP}.weight"]


def swap_nibbles(tensors: Tensors) -> None:
    for name in [one for one in tensors if one.endswith("up_proj.qweight")]:
        words = tensors[name]
        tensors[name] = ((words & 0x0F0F0F0F) << 4) | ((words >> 4) & 0x0F0F0F0F)


def swap_bytes_of_codes(tensors: Tensors) -> None:
    for name in [one for one in tensors if one.endswith("up_proj.weight")]:
        tensors[name] = (tensors[name] << 4) | (tensors[name] >> 4)


def shift_zero_points(tensors: Tensors) -> None:
    for name in [one for one in tensors if one.endswith(".qzeros")]:
        tensors[name] = tensors[name] + 0x11111111


def zero_a_scale(tensors: Tensors) -> None:
    tensors[f"{UP}.scales"][0, 0] = 0


def lose_scales(tensors: Tensors) -> None:
    del tensors[f"{UP}.SCB"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("gptq", swap_nibbles), ("awq", swap_nibbles), ("gptq", shift_zero_points), ("awq", shift_zero_points),
        ("bitsandbytes-nf4", swap_bytes_of_codes), ("auto-round", zero_a_scale), ("bitsandbytes-int8", lose_scales),
    ],
)  # fmt: skip
def test_a_damaged_packed_subject_fails(name: str, damage: Callable[[Tensors], None], tmp_path: Path) -> None:
    subject = restore(name, tmp_path / "subject")
    path = subject / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    damage(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)

    code, report, output = evaluate(subject, tmp_path)

    assert code == 1, output
    assert report["assurance"]["verdict"] == "FAIL"
    assert "Traceback" not in output
