"""A healthy model passes however it is stored, and a broken one in the same storage fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from shipped_checkpoints import EMBEDDED, restore, write_baseline

from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.evaluation.pair import BASELINE_REPORT, evaluate_pair
from invarlock.evaluation.pair_request import PairRequest

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
HEAD, TOKENS = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Storage:
    """How a checkpoint is stored.

    Attributes:
        dtype: of all tensors.
        shards: files that the tensors are dealt to.
        reverse: whether tensors stand in the opposite order.
        total_size: what the index says, relative to the truth; None where it says nothing.
        head: whether a tied head is stored too.
        prefix: whether names begin with ``model.``.
        metadata: whether the files say what wrote them.
        generation: whether there is a ``generation_config.json``.
    """

    dtype: str
    shards: int
    reverse: bool
    total_size: float | None
    head: bool
    prefix: bool
    metadata: bool
    generation: bool


STORAGES = st.builds(
    Storage,
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([None, 0.0, 1.0, 7.0]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


def write(base: Path, folder: Path, storage: Storage, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write the tensors of a model in another way than its own, with the other files of the model."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    stored = dict(tensors)
    tied = HEAD not in stored
    if tied and storage.head:
        stored[HEAD] = stored[TOKENS]
    names = sorted(stored, reverse=storage.reverse)
    named = {name: name if storage.prefix else name.removeprefix("model.") for name in names}
    metadata = {"format": "pt"} if storage.metadata else None
    index: dict[str, str] = {}
    for number in range(storage.shards):
        file = f"model-{number + 1:05}-of-{storage.shards:05}.safetensors"
        part = {
            named[name]: stored[name].to(DTYPES[storage.dtype]).clone().contiguous()
            for name in names[number :: storage.shards]
        }
        index |= dict.fromkeys(part, file)
        save_file(part, folder / ("model.safetensors" if storage.shards == 1 else file), metadata=metadata)
    if storage.shards > 1:
        size = sum(tensor.numel() for tensor in stored.values()) * DTYPES[storage.dtype].itemsize
        about = {} if storage.total_size is None else {"total_size": int(storage.total_size * size)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": about, "weight_map": index}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": storage.dtype}))
    if storage.generation:
        (folder / "generation_config.json").write_text('{"transformers_version": "4.40.0"}')
    else:
        (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


@dataclass(frozen=True)
class Bank:
    """A baseline, and its report."""

    base: Path
    report: Path
    folder: Path

    def judge(self, storage: Storage, tensors: Mapping[str, torch.Tensor]) -> Any:
        work = self.folder / str(len(list(self.folder.iterdir())))
        subject = write(self.base, work / "subject", storage, tensors)
        return evaluate_pair(request(self.base, subject, self.report), work / "out")


def request(base: Path, subject: Path, report: Path | None = None) -> PairRequest:
    return PairRequest(
        base, subject, TEXT, seq_len=64, preview_windows=4, final_windows=16, device="cpu", edit_label="stored",
        baseline_report=report,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["qwen2-tiny", "mistral-tiny"])
def bank(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("odd")
    base = write_baseline(request.param, folder / "base")
    evaluate_pair(_same(base), folder / "out")
    (folder / "subjects").mkdir()
    return Bank(base, folder / "out" / BASELINE_REPORT, folder / "subjects")


def _same(base: Path) -> PairRequest:
    return request(base, base)


@pytest.mark.slow
@settings(
    max_examples=3, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(STORAGES)
def test_a_healthy_model_passes_and_a_broken_one_fails(bank: Bank, storage: Storage) -> None:
    tensors = load_file(bank.base / "model.safetensors")

    healthy = bank.judge(storage, tensors)

    assert healthy["assurance"]["verdict"] == "PASS", healthy["invariants"]["violations"]
    assert abs(healthy["primary_metric"]["ratio_vs_baseline"] - 1) < 1e-3
    assert healthy["spectral"]["violations"] == []
    name = "model.layers.1.self_attn.o_proj.weight"
    broken = bank.judge(storage, {**tensors, name: tensors[name].roll(1, dims=0) * 4})
    assert broken["assurance"]["verdict"] == "FAIL"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gptq", "quantize_config.json"),
        ("gptq-asym", "quantize_config.json"),
        ("gptq-2bit", "quantize_config.json"),
        ("awq", "quant_config.json"),
    ],
)
def test_a_packed_checkpoint_is_read_wherever_its_quantization_config_is(name: str, file: str, tmp_path: Path) -> None:
    known, folder = open_checkpoint(restore(name, tmp_path / "known")), restore(name, tmp_path / "older")
    config = json.loads((folder / "config.json").read_text())
    packed = config.pop("quantization_config")
    packed.pop("quant_method")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / file).write_text(json.dumps(packed))

    checkpoint = open_checkpoint(folder)

    assert checkpoint.check() == ()
    assert checkpoint.files.entries == known.files.entries
    assert all(torch.equal(checkpoint.read(tensor), known.read(tensor)) for tensor in known.files.entries)
