"""Edits of a synthetic sharded checkpoint: time compared with a synced copy of the same files, and peak memory.

python benchmarks/streaming_edits.py --gigabytes 4

Each edit runs in its own process, whose peak resident memory is compared with the memory after its imports. Then four
edits are made alternately in one pass over the baseline and in four. The baseline is dropped from the page cache before
every pass, as happens when the cache is too small for baseline and subject. The time of reading and writing alone
limits the possible ratio, because one pass writes as many bytes as four.
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
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

SPECS = ("quant_rtn:4:32:all", "fp8_quant:e5m2:all", "magnitude_prune:0.12:all")
# The edits of four scenarios of one model; all of them read the same shards.
FOUR = ("quant_rtn:4:32:ffn", "fp8_quant:e5m2:ffn", "magnitude_prune:0.12:ffn", "quant_rtn:8:128:attn")
HIDDEN, FFN, LAYERS_PER_SHARD = 2048, 5632, 8
CHUNK_BYTES = 4 * 1024 * 1024


def make_checkpoint(folder: Path, gigabytes: float) -> int:
    """Write a Llama-shaped bfloat16 checkpoint of random weights and return the bytes of its largest shard."""
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


@dataclass(frozen=True)
class Cost:
    """Wall-clock and CPU seconds of one or more passes, and the peak memory of the process beyond its imports."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def edit(baseline: Path, folder: Path, specs: Sequence[str]) -> None:
    """Apply edits in one pass and print this process's seconds, CPU seconds and extra peak bytes as JSON."""
    from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
    from invarlock.checkpoints.editing import apply_edits

    before = peak_resident_bytes()
    subjects = {}
    for number, spec in enumerate(specs):
        parsed = parse_edit_spec(spec)
        assert isinstance(parsed, EditSpec)
        subjects[folder / str(number)] = parsed
    started, cpu_started = time.perf_counter(), time.process_time()
    apply_edits(baseline, subjects)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    print(json.dumps([seconds, cpu_seconds, peak_resident_bytes() - before]))


def edited(folder: Path, *specs: str) -> Cost:
    """Apply edits in one pass in a new process, with the baseline read from disk, and return the cost.

    The subjects stay in ``subjects``, in a folder of this pass.
    """
    drop_from_cache(folder / "base")
    target = folder / "subjects" / "+".join(specs).replace(":", "_")
    command = [sys.executable, __file__, "--edit", str(folder / "base"), str(target), *specs]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(*json.loads(done.stdout))


def drop_from_cache(folder: Path) -> None:
    """Drop a folder's files from the page cache; they must already be synced to disk."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_and_write(folder: Path) -> tuple[float, float]:
    """Return the seconds of reading the baseline from disk, and of writing the same number of bytes to disk."""
    drop_from_cache(folder / "base")
    reading = writing = 0.0
    for path in sorted((folder / "base").iterdir()):
        with path.open("rb") as source, (folder / "written").open("wb") as target:
            while True:
                started = time.perf_counter()
                chunk = source.read(CHUNK_BYTES)
                read = time.perf_counter()
                if not chunk:
                    break
                target.write(chunk)
                reading += read - started
                writing += time.perf_counter() - read
            started = time.perf_counter()
            target.flush()
            os.fsync(target.fileno())
            writing += time.perf_counter() - started
    (folder / "written").unlink()
    return reading, writing


def compare_passes(folder: Path, rounds: int) -> None:
    """Print the time of four edits in one pass and in four, and the same ratio for reading and writing alone."""
    for number in range(rounds):
        # subjects stay until all are made: files that are removed leave memory that the next ones need not ask for
        if number % 2:
            apart = [edited(folder, spec) for spec in FOUR]
            shutil.rmtree(folder / "subjects")
            together = edited(folder, *FOUR)
        else:
            together = edited(folder, *FOUR)
            shutil.rmtree(folder / "subjects")
            apart = [edited(folder, spec) for spec in FOUR]
        shutil.rmtree(folder / "subjects")
        seconds, cpu_seconds = sum(cost.seconds for cost in apart), sum(cost.cpu_seconds for cost in apart)
        reading, writing = read_and_write(folder)
        floor = (reading + len(FOUR) * writing) / (len(FOUR) * (reading + writing))
        print(
            f"four edits in one pass {together.seconds:.1f} s, in four {seconds:.1f} s, "
            f"ratio {together.seconds / seconds:.2f}; processor {together.cpu_seconds:.1f} and {cpu_seconds:.1f} s, "
            f"ratio {together.cpu_seconds / cpu_seconds:.2f}; peaks {together.peak_bytes / 1e6:.0f} and "
            f"{max(cost.peak_bytes for cost in apart) / 1e6:.0f} MB; reading the baseline {reading:.1f} s, writing "
            f"as much {writing:.1f} s, ratio of these alone {floor:.2f}; reach: 0.5",
            flush=True,
        )


def peak_resident_bytes() -> int:
    """Return this process's peak resident memory. ru_maxrss would include the peak inherited from its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made; default: the system's")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--edit", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.edit:
        edit(Path(arguments.edit[0]), Path(arguments.edit[1]), arguments.edit[2:])
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        shard_bytes = make_checkpoint(folder / "base", arguments.gigabytes)
        os.sync()
        drop_from_cache(folder / "base")
        started = time.perf_counter()
        subprocess.run(["cp", "-r", str(folder / "base"), str(folder / "copy")], check=True)
        os.sync()
        copy = time.perf_counter() - started
        shutil.rmtree(folder / "copy")
        print(f"copy {copy:.1f} s; largest shard {shard_bytes / 1e6:.0f} MB")
        for spec in SPECS:
            cost = edited(folder, spec)
            shutil.rmtree(folder / "subjects")
            print(
                f"{spec}: {cost.seconds:.1f} s, {cost.seconds / copy:.2f} × copy; processor {cost.cpu_seconds:.1f} s; "
                f"{cost.peak_bytes / 1e6:.0f} MB above the imports"
            )
        compare_passes(folder, arguments.rounds)


if __name__ == "__main__":
    main()
