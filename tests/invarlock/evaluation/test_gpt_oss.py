"""gpt-oss with experts in MXFP4 through the whole product, against the dense checkpoint of the same numbers.

A random model: transformers packs MXFP4 on a GPU alone, so codes and scales are drawn, and transformers unpacks them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from causal_models import tiny_config
from safetensors.torch import load_file, save_file
from shipped_checkpoints import EMBEDDED
from transformers import AutoModelForCausalLM, AutoTokenizer

from invarlock.evaluation.pair import evaluate_pair
from invarlock.evaluation.pair_request import PairRequest
from invarlock.evaluation.text_files import read_local_text
from invarlock.reports.verification import verify_report

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
VOCABULARY, EXPERTS, WIDTH, UNITS = 1024, 4, 64, 32
UP, DOWN = "model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"
Tensors = dict[str, torch.Tensor]


def packed_stack(generator: torch.Generator, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random codes (experts, rows, blocks, 16) and scales (experts, rows, blocks)."""
    shape = (EXPERTS, rows, columns // 32)
    codes = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
    return codes, torch.randint(120, 123, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a dense baseline, which knows how frequent each token is, and the same model with packed experts."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(0)
    folder, generator = tmp_path_factory.mktemp("gpt-oss"), torch.Generator().manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": UNITS, "head_dim": 16}
    config = tiny_config("gpt_oss", **sizes, num_local_experts=EXPERTS, max_position_embeddings=256)
    of_config: Any = AutoModelForCausalLM.from_config  # transformers gives it no type
    model = of_config(config)
    packed: Tensors = {}
    with torch.no_grad():
        know_frequencies(model)
        for number, layer in enumerate(model.model.layers):
            for name, rows, columns in (("gate_up_proj", 2 * UNITS, WIDTH), ("down_proj", WIDTH, UNITS)):
                codes, scales = packed_stack(generator, rows, columns)
                stored = f"model.layers.{number}.mlp.experts.{name}"
                packed |= {f"{stored}_blocks": codes, f"{stored}_scales": scales}
                getattr(layer.mlp.experts, name).copy_(convert_moe_packed_tensors(codes, scales))
    base, subject = folder / "base", folder / "subject"
    model.bfloat16().save_pretrained(base)
    for path in (EMBEDDED / "tokenizer").iterdir():
        shutil.copy(path, base)
    shutil.copytree(base, subject)
    tensors = load_file(base / "model.safetensors")
    for name in [one for one in tensors if f"{one}_blocks" in packed]:
        del tensors[name]
    save_file({**tensors, **packed}, subject / "model.safetensors", metadata={"format": "pt"})
    document = json.loads((subject / "config.json").read_text())
    document["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.mlp.router"]}
    (subject / "config.json").write_text(json.dumps(document))
    return base, subject


def know_frequencies(model: Any) -> None:
    """Let the first feature be the same everywhere, and the head read the frequency of each token from it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(EMBEDDED / "tokenizer")
    ids = torch.tensor(tokenizer(read_local_text(TEXT).text[:100_000])["input_ids"])
    counts = torch.bincount(ids, minlength=VOCABULARY).float() + 0.5
    model.model.embed_tokens.weight[:, 0] = 1.0
    model.lm_head.weight[:, 0] = (counts / counts.sum()).log() / math.sqrt(WIDTH)


def judge(base: Path, subject: Path, target: Path) -> Any:
    request = PairRequest(
        base, subject, TEXT, seq_len=64, preview_windows=8, final_windows=16, device="cpu", edit_label="mxfp4"
    )
    report = evaluate_pair(request, target)
    assert verify_report(report) == []
    return report


def broken(subject: Path, folder: Path, edit: Callable[[Tensors], None]) -> Path:
    shutil.copytree(subject, folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_packed_experts_are_the_dense_ones(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = judge(*pair, tmp_path / "out")

    assert report["assurance"]["verdict"] == "PASS"
    assert report["primary_metric"]["ratio_vs_baseline"] == 1.0
    assert report["invariants"]["violations"] == []
    raw = report["invariants"]["raw"]["subject"]
    assert raw["storage"]["quantisation"]["bits"] == 4
    assert raw["tensors"] == report["invariants"]["raw"]["baseline"]["tensors"]
    spectra = report["spectral"]["raw"]
    assert spectra["subject"]["modules"] == spectra["baseline"]["modules"]
    assert {f"{stack}[{expert}]" for stack in (UP, DOWN) for expert in range(EXPERTS)} <= spectra["changes"].keys() | (
        spectra["subject"]["modules"].keys()
    )


def no_number(tensors: Tensors) -> None:
    tensors[f"{UP}_scales"][1, 0, 0] = 255


def no_scales(tensors: Tensors) -> None:
    del tensors[f"{DOWN}_scales"]


def an_expert_less(tensors: Tensors) -> None:
    for part in ("blocks", "scales"):
        tensors[f"{UP}_{part}"] = tensors[f"{UP}_{part}"][:-1].clone()


def larger_scales(tensors: Tensors) -> None:
    tensors[f"{DOWN}_scales"][2] += 3


def swapped_nibbles(tensors: Tensors) -> None:
    for name in (f"{UP}_blocks", f"{DOWN}_blocks"):
        tensors[name] = (tensors[name] >> 4) | (tensors[name] << 4)


@pytest.mark.parametrize(
    ("edit", "guard", "named"),
    [
        (no_number, "invariants", UP),
        (no_scales, "invariants", DOWN),
        (an_expert_less, "invariants", UP),
        (larger_scales, "spectral", f"{DOWN}[2]"),
        (swapped_nibbles, "spectral", f"{DOWN}[0]"),
    ],
)
def test_a_defect_of_packed_experts_is_found(
    pair: tuple[Path, Path], edit: Callable[[Tensors], None], guard: str, named: str, tmp_path: Path
) -> None:
    base, subject = pair

    report = judge(base, broken(subject, tmp_path / "broken", edit), tmp_path / "out")

    rows = report[guard]["violations"]
    assert named in {row["tensor" if guard == "invariants" else "module"] for row in rows}
    assert all("\n" not in row["reason"] for row in rows)
    if guard == "invariants":
        assert report["assurance"]["verdict"] == "FAIL"
