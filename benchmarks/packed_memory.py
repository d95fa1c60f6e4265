"""Peak memory of reading a packed subject tensor by tensor, and of loading it dequantised.

    python benchmarks/packed_memory.py [--shape 50M] [--folder DISK]

The subject is a LLaMA-like model with random weights in block FP8 (``weight_block_size`` 128). A separate process opens
it, reads every tensor once, and loads the dense model with the same values. The peak resident set size of each stage is
printed with the sizes of the shard, the largest dense tensor and the model. Resident set sizes do not depend on the
load of the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from memory import SHAPES, make_model, resident_bytes

BLOCK = 128
MB = 1e6


def pack(base: Path, folder: Path) -> None:
    """Write the matrices of all layers as float8 with a scale for each block of weights."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    for name in [one for one in tensors if one.endswith("_proj.weight")]:
        weight = tensors[name].float()
        tall, wide = (-(-size // BLOCK) for size in weight.shape)
        scale = torch.full((tall, wide), float(weight.abs().max()) / 448)
        tensors[name], tensors[f"{name}_scale_inv"] = (weight / scale[0, 0]).to(torch.float8_e4m3fn), scale
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps(config))


def measure(folder: Path) -> dict[str, float]:
    """Return resident set sizes and the sizes to compare them with, in MB. Call it in a separate process."""
    import torch

    from invarlock.checkpoints.storage_format import open_checkpoint
    from invarlock.evaluation.models import Placement, load_dequantised

    torch.set_num_threads(1)
    checkpoint = open_checkpoint(folder)
    entries = checkpoint.files.entries.values()
    torch.zeros(1).float()
    found = {"imports": resident_bytes("VmHWM")}
    for entry in entries:
        checkpoint.read(entry.name)
    found["reading"] = resident_bytes("VmHWM")
    load_dequantised(checkpoint, Placement("cpu", scoring="dequantised"))
    found["loading"] = resident_bytes("VmHWM")
    found["shard"] = (folder / "model.safetensors").stat().st_size
    found["largest dense tensor"] = max(entry.size_bytes for entry in entries)
    found["model"] = sum(4 * entry.elements for entry in entries)
    return {name: size / MB for name, size in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="50M")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        base, subject = Path(work) / "base", Path(work) / "subject"
        make_model(options.shape, base)
        pack(base, subject)
        command = [sys.executable, __file__, "--measure", str(subject)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name, size in found.items():
        print(f"{name}: {size:.0f} MB")
    larger = max(found["shard"], found["largest dense tensor"])
    print(f"reading, beyond the imports: {(found['reading'] - found['imports']) / larger:.2f} of the larger of the two")
    beyond = (found["loading"] - found["imports"]) / (larger + found["model"])
    print(f"loading, beyond the imports: {beyond:.2f} of the larger of the two and the model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
