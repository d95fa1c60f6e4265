"""Edits over a synthetic sharded checkpoint: time against a synced copy of the same files, and peak memory.

python benchmarks/streaming_edits.py --gigabytes 4

Each edit runs in a process of its own, whose peak resident memory is compared with that of one that only imports.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

SPECS = ("quant_rtn:4:32:all", "fp8_quant:e5m2:all", "magnitude_prune:0.12:all")
HIDDEN, FFN, LAYERS_PER_SHARD = 2048, 5632, 8


def make_checkpoint(folder: Path, gigabytes: float) -> int:
    """Write a Llama-shaped bfloat16 checkpoint of random weights and return its largest shard's bytes."""
    shapes = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}
    layer_bytes = sum(rows * columns * 2 for rows, columns in shapes.values())
    layers = max(LAYERS_PER_SHARD, round(gigabytes * 1e9 / layer_bytes))
    folder.mkdir()
    weight_map: dict[str, str] = {}
    for start in range(0, layers, LAYERS_PER_SHARD):
        shard = f"model-{start:05d}.safetensors"
        tensors = {
            f"model.layers.{layer}.{name}.weight": torch.randn(shape).to(torch.bfloat16)
            for layer in range(start, min(start + LAYERS_PER_SHARD, layers))
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    config = {"model_type": "llama", "num_hidden_layers": layers, "hidden_size": HIDDEN, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return layer_bytes * LAYERS_PER_SHARD


def edit(baseline: Path, subject: Path, spec: str) -> None:
    """Apply one edit and print its seconds and the peak memory of this process in bytes."""
    from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
    from invarlock.edits.application import apply_edits

    before = peak_resident_bytes()
    parsed = parse_edit_spec(spec)
    assert isinstance(parsed, EditSpec)
    started = time.perf_counter()
    apply_edits(baseline, {subject: parsed})
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, peak_resident_bytes() - before]))


def peak_resident_bytes() -> int:
    """Return this process's own peak; ru_maxrss would start at that of the process which began it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--edit", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.edit:
        edit(Path(arguments.edit[0]), Path(arguments.edit[1]), arguments.edit[2])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard_bytes = make_checkpoint(folder / "base", arguments.gigabytes)
        started = time.perf_counter()
        subprocess.run(["cp", "-r", str(folder / "base"), str(folder / "copy")], check=True)
        os.sync()
        copy = time.perf_counter() - started
        shutil.rmtree(folder / "copy")
        print(f"copy {copy:.1f} s; largest shard {shard_bytes / 1e6:.0f} MB")
        for spec in SPECS:
            command = [sys.executable, __file__, "--edit", str(folder / "base"), str(folder / "subject"), spec]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds, peak = json.loads(done.stdout)
            print(f"{spec}: {seconds:.1f} s, {seconds / copy:.2f} × copy; {peak / 1e6:.0f} MB above the imports")
            shutil.rmtree(folder / "subject")


if __name__ == "__main__":
    main()
