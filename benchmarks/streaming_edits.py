"""Edits over a synthetic sharded checkpoint: time against a synced copy of the same files, and peak memory.

python benchmarks/streaming_edits.py --gigabytes 4

Each edit runs in a process of its own, whose peak resident memory is compared with that of one that only imports. Then
four edits are made in one pass over the baseline and in four.
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
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

SPECS = ("quant_rtn:4:32:all", "fp8_quant:e5m2:all", "magnitude_prune:0.12:all")
# What four scenarios of one model ask for: each takes other tensors of the same shards.
FOUR = ("quant_rtn:4:32:ffn", "fp8_quant:e5m2:ffn", "magnitude_prune:0.12:ffn", "quant_rtn:8:128:attn")
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


def edit(baseline: Path, folder: Path, specs: Sequence[str]) -> None:
    """Apply edits in one pass and print the seconds and the peak memory of this process in bytes."""
    from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
    from invarlock.checkpoints.editing import apply_edits

    before = peak_resident_bytes()
    subjects = {}
    for number, spec in enumerate(specs):
        parsed = parse_edit_spec(spec)
        assert isinstance(parsed, EditSpec)
        subjects[folder / str(number)] = parsed
    started = time.perf_counter()
    apply_edits(baseline, subjects)
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, peak_resident_bytes() - before]))


def edited(folder: Path, *specs: str) -> tuple[float, int]:
    """Return the seconds and the peak memory of edits in one pass of a process of its own."""
    command = [sys.executable, __file__, "--edit", str(folder / "base"), str(folder / "subjects"), *specs]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(folder / "subjects")
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def peak_resident_bytes() -> int:
    """Return this process's own peak; ru_maxrss would start at that of the process which began it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--edit", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.edit:
        edit(Path(arguments.edit[0]), Path(arguments.edit[1]), arguments.edit[2:])
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
            seconds, peak = edited(folder, spec)
            print(f"{spec}: {seconds:.1f} s, {seconds / copy:.2f} × copy; {peak / 1e6:.0f} MB above the imports")
        four = sum(edited(folder, spec)[0] for spec in FOUR)
        together, _ = edited(folder, *FOUR)
        print(f"four edits in one pass {together:.1f} s, in four {four:.1f} s, ratio {together / four:.2f}; reach: 0.5")


if __name__ == "__main__":
    main()
