"""Moves scales between matrices, as AWQ and SmoothQuant do, and then rounds to nearest.

The outputs of a norm, a value projection or an up projection are divided by a factor per feature, and the matrices that
read them are multiplied by it (Lin et al. 2023, Xiao et al. 2022). Those tools choose the factors by the activations of
a calibration text. Without such a text, these factors are random, from e^-0.6 to e^0.6.
"""

from __future__ import annotations

from invarlock.edits.edit import Edit, Weights
from invarlock.edits.quant_rtn import GRID, round_matrix

SPREAD = 0.6


def _smooth(weights: Weights) -> None:
    # imported here because specs are also read where PyTorch is not installed
    import torch

    for seed, features in enumerate(weights.scalable):
        generator = torch.Generator().manual_seed(seed)
        weights.scale(features, (SPREAD * (2 * torch.rand(features.count, generator=generator) - 1)).exp())


SMOOTHED_RTN = Edit(
    name="smoothed_rtn",
    parameters=GRID,
    syntax="smoothed_rtn:<bits 2..8>:<group size>",
    apply=round_matrix,
    storage_format="float_dequantized",
    semantics="scales moved between matrices, then weights rounded to a grid and stored as floats again",
    family_scope=(),
    move=_smooth,
    touches=("attn", "ffn", "norm", "router"),
)
