"""Rotates the residual stream, as QuaRot and SpinQuant do, and then rounds to nearest.

Norms are folded into the matrices that read them, and the residual stream is rotated by a random orthogonal matrix
(Ashkboos et al. 2024, Liu et al. 2024). Those tools use a Hadamard matrix, which is fast to apply, or a learned one.
"""

from __future__ import annotations

from invarlock.edits.edit import Edit, Weights
from invarlock.edits.quant_rtn import GRID, round_matrix


def _rotate(weights: Weights) -> None:
    # imported here because specs are also read where PyTorch is not installed
    import torch

    generator = torch.Generator().manual_seed(0)
    size = weights.residual.count
    weights.fold_norms()
    weights.rotate(torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q.float())


ROTATED_RTN = Edit(
    name="rotated_rtn",
    parameters=GRID,
    syntax="rotated_rtn:<bits 2..8>:<group size>",
    apply=round_matrix,
    storage_format="float_dequantized",
    semantics="norms folded, the residual stream rotated, then weights rounded to a grid and stored as floats again",
    family_scope=(),
    move=_rotate,
    touches=("attn", "ffn", "norm", "router", "embed"),
)
