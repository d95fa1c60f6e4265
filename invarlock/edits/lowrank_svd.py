"""The best approximation of a matrix by one of lower rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invarlock.edits.edit import Edit, Parameter, Parameters, at_least, whole_number

if TYPE_CHECKING:
    import torch

# Up to this length of the smaller side, a full SVD takes about a second; beyond, the randomised method is far cheaper.
FULL_SVD_MAX_SIDE = 1024
OVERSAMPLING = 32
POWER_ITERATIONS = 6
SEED = 0x5EED
# How many ranks the tuner tries.
LADDER_STEPS = 32


def approximate_lowrank(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the best rank-``rank`` approximation in the Frobenius norm, in the weight's own dtype.

    Small matrices use a full SVD (Eckart and Young 1936), large ones a seeded randomised range finder with oversampling
    and power iterations (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1). A matrix whose smaller side is at
    most ``rank`` is returned unchanged.

    Args:
        weight: matrix, shape (out, in).
        rank: at least 1.

    Raises:
        ValueError: when ``rank`` is below 1 or ``weight`` is not a matrix.
    """
    # imported here because specs are also read where PyTorch is not installed
    import torch

    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")
    if weight.ndim != 2:
        raise ValueError(f"a matrix is needed, not shape {tuple(weight.shape)}")
    if rank >= min(weight.shape):
        return weight.clone()
    values = weight.float()
    if min(weight.shape) <= FULL_SVD_MAX_SIDE:
        left, singular, right = torch.linalg.svd(values, full_matrices=False)
        approximation: torch.Tensor = (left[:, :rank] * singular[:rank]) @ right[:rank]
    else:
        approximation = randomised_lowrank(values, rank)
    return approximation.to(weight.dtype)


def randomised_lowrank(values: torch.Tensor, rank: int) -> torch.Tensor:
    """Return a low-rank approximation by a randomised range finder with power iterations and a fixed seed."""
    import torch  # here, as above

    width = min(rank + OVERSAMPLING, *values.shape)
    generator = torch.Generator().manual_seed(SEED)
    probe = torch.randn(values.shape[1], width, generator=generator).to(values.device)
    basis = torch.linalg.qr(values @ probe).Q  # (out, width)
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(values @ torch.linalg.qr(values.T @ basis).Q).Q
    small = basis.T @ values  # (width, in)
    left, singular, right = torch.linalg.svd(small, full_matrices=False)
    approximation: torch.Tensor = (basis @ (left[:, :rank] * singular[:rank])) @ right[:rank]
    return approximation


def _apply(weight: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    import torch  # here, as above

    rank = int(parameters["rank"])
    if not torch.cuda.is_available():
        return approximate_lowrank(weight, rank)
    return approximate_lowrank(weight.cuda(), rank).cpu()


def _ladder(smallest_side: int) -> list[Parameters]:
    ranks = {max(1, smallest_side - round(smallest_side * step / LADDER_STEPS)) for step in range(1, LADDER_STEPS + 1)}
    return [{"rank": rank} for rank in sorted(ranks, reverse=True)]


LOWRANK_SVD = Edit(
    name="lowrank_svd",
    parameters=(Parameter("rank", whole_number("rank", 1, 1 << 20), at_least(1)),),
    syntax="lowrank_svd:<rank>:<scope>",
    apply=_apply,
    storage_format="dense_float_lowrank_approximated",
    semantics="matrices replaced by their best approximation of lower rank, stored densely",
    ladder=_ladder,
    on_gpu=True,
    tunes_one_block=True,
)
