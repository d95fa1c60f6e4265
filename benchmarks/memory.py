"""Peak memory of a worker that runs one case on a CPU, compared with the memory planned for the model.

    python benchmarks/memory.py [--shapes 10M,135M] [--seq-len 512] [--batch 16] [--folder DISK]

Each shape is a LLaMA-like model with random weights in bfloat16. A separate process makes an edit, then measures the
baseline and the subject with its probes, as a worker does. It reports the peak resident set size of each stage, which
includes pages of mapped files. ``planned`` is what ``invarlock.harness.devices.memory_plan`` plans for the model.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from invarlock.catalog.models import Model
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.harness.devices.memory_plan import needed_bytes

# hidden size, layers, FFN size, heads, key-value heads, vocabulary, whether the head is tied to the embedding
SHAPES = {
    "10M": (256, 4, 640, 4, 2, 32_000, True),
    "50M": (512, 10, 1408, 8, 4, 49_152, True),
    "135M": (576, 30, 1536, 9, 3, 49_152, True),
    "135M-150k": (576, 12, 1536, 9, 3, 151_936, True),
    "300M": (1024, 20, 2816, 16, 4, 32_000, False),
    "300M-150k": (1024, 12, 2816, 16, 4, 151_936, True),
}
SPEC = "quant_rtn:8:128:all"
WORDS = 2_000
SECONDS = 3_600
T = TypeVar("T")


def make_model(name: str, folder: Path) -> None:
    """Write a checkpoint with random weights, and a tokenizer with the same vocabulary size."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, inner, heads, kv_heads, vocabulary, tied = SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({f"w{number}": number for number in range(vocabulary)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(folder: Path, seq_len: int, batch: int, windows: int) -> dict[str, Any]:
    """Return the peak resident set size of each stage of a case, in bytes. Call it in a separate process."""
    import torch

    from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
    from invarlock.checkpoints.digests import digest_checkpoint
    from invarlock.checkpoints.editing import apply_edits
    from invarlock.evaluation.comparison import compare, draw_runs, measure_baseline
    from invarlock.evaluation.documents import baseline_document
    from invarlock.evaluation.measurements import WindowPlan
    from invarlock.evaluation.models import Placement
    from invarlock.evaluation.request import EvaluationRequest, Setup, StoredBaseline
    from invarlock.evaluation.text_files import read_local_text
    from invarlock.jsonio import digest_document

    torch.set_num_threads(1)
    peaks = {"imports": resident_bytes("VmRSS")}

    def stage(name: str, work: Callable[[], T]) -> T:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        done = work()
        peaks[name] = resident_bytes("VmHWM")
        return done

    count = read_checkpoint(folder).shapes["model.embed_tokens.weight"][0]
    needed = (windows + batch) * seq_len + WORDS
    text = folder.parent / "text.txt"
    text.write_text(" ".join(f"w{(number * 7919) % count}" for number in range(needed)), "utf-8")
    subject = folder.parent / "subject"
    spec = parse_edit_spec(SPEC)
    assert isinstance(spec, EditSpec)
    stage("edit", lambda: apply_edits(folder, {subject: spec}))
    source = read_local_text(text, "text")
    # the weights are random, so predictions are no better than chance
    plan = WindowPlan(seq_len, windows, batch, 0, batch, most_of_chance=math.inf)
    context = {"suite": "memory", "profile": "dev", "tier": "balanced"}
    context |= {"determinism": "throughput", "execution_mode": "host-bypass"}
    setup = Setup("memory", digest_checkpoint(folder), context, Placement("cpu"), plan, source)
    draws = draw_runs(folder, source, plan, [1])
    document = stage(
        "baseline",
        lambda: baseline_document(setup, measure_baseline(folder, draws, plan, Placement("cpu"), probe=True)),
    )
    stored = StoredBaseline(folder, document, digest_document(document))
    request = EvaluationRequest(setup, stored, "memory", 1, draws[1], Placement("cpu"), probe=True)
    stage("subject", lambda: compare(subject, request.comparison()))
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--windows", type=int, default=2, help="preview windows; the final ones are one batch")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.seq_len, options.batch, options.windows)))
        return
    print(f"{options.seq_len} tokens a window, batches of {options.batch}; peaks in MB")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            checkpoint = Path(folder) / "baseline"
            make = f"import memory, pathlib; memory.make_model({name!r}, pathlib.Path({str(checkpoint)!r}))"
            here = Path(__file__).parent
            subprocess.run([sys.executable, "-c", make], cwd=here, check=True, timeout=SECONDS)
            command = [sys.executable, __file__, "--one", str(checkpoint), "--seq-len", str(options.seq_len)]
            command += ["--batch", str(options.batch), "--windows", str(options.windows)]
            done = subprocess.run(command, check=True, timeout=SECONDS, capture_output=True, text=True)
            files = read_checkpoint(checkpoint)
            stored = sum(entry.size_bytes for entry in files.entries.values())
            model = Model(name, files.model_type, files.total_parameters, stored, "none", 0)
            peaks = json.loads(done.stdout.splitlines()[-1])
            shown = ", ".join(f"{stage} {size / 1e6:.0f}" for stage, size in peaks.items())
            planned = needed_bytes(model, "cpu", options.batch * options.seq_len, options.seq_len)
            print(f"{name}: {files.total_parameters:,} parameters: {shown}; planned {planned / 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()
