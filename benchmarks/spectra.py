"""CPU time of the largest singular values of a model's matrices, against reading them and one product with each.

    python benchmarks/spectra.py [--layers 2] [--hidden 576] [--inner 1536]

By default the matrices have the shapes of SmolLM2-135M's layers. Trained matrices have a few large singular values
above the bulk; the difference of two checkpoints is noise, whose largest singular values are close together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from invarlock.measuring.spectral import BLOCK, TOLERANCE, Spectrum, measure_spectra

LEADING = 32


def matrices(layers: int, hidden: int, inner: int, *, noise: bool) -> dict[str, torch.Tensor]:
    """Return a stack of matrices for each shape in a layer: queries and outputs, keys and values, up and down."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"qo": (2 * layers, hidden, hidden), "kv": (2 * layers, hidden // 3, hidden)}
    shapes |= {"up": (2 * layers, inner, hidden), "down": (layers, hidden, inner)}
    stacks = {}
    for name, (count, rows, columns) in shapes.items():
        stack = torch.randn(count, rows, columns, generator=generator)
        if not noise:
            left = torch.randn(count, rows, LEADING, generator=generator)
            right = torch.randn(count, LEADING, columns, generator=generator)
            stack += (left * (8 / torch.arange(1, LEADING + 1).sqrt())) @ right / LEADING**0.5
        stacks[name] = stack
    return stacks


def timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--inner", type=int, default=1536)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure_spectra(torch.randn(1, 128, 128))
    for noise in (False, True):
        compare(matrices(options.layers, options.hidden, options.inner, noise=noise), "noise" if noise else "trained")


def compare(stacks: dict[str, torch.Tensor], name: str) -> None:
    """Print how long the spectra of some matrices take, compared with reading them and with one product with each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(stacks, path)
        # the file is memory-mapped: the sum forces every page to be read
        read = timed(lambda: [stack.sum() for stack in load_file(path).values()])
    blocks = {shape: torch.randn(stack.shape[2], BLOCK) for shape, stack in stacks.items()}
    product = timed(lambda: [stack @ blocks[shape] for shape, stack in stacks.items()])
    spectra: list[Spectrum] = []
    ours = timed(lambda: spectra.extend(one for stack in stacks.values() for one in measure_spectra(stack)))
    open_ = sum(spectrum.residual is None or spectrum.residual > TOLERANCE for spectrum in spectra)
    print(f"{name}: {len(spectra)} matrices in {ours:.2f} s, {open_} not converged")
    print(f"  {ours / (read + product):.1f} × reading ({read:.3f} s) and one product ({product:.3f} s), reach: 40")


if __name__ == "__main__":
    main()
