"""How much of the hardware's freedom a run gives up for the same numbers each time."""

from __future__ import annotations

import os

import torch


def apply_determinism(mode: str, threads: int) -> None:
    """Set up this process for a mode.

    ``throughput`` computes with all threads that the process has. ``strict`` takes one, whose sums have one order
    however many workers there are, and asks PyTorch for deterministic algorithms only, on a GPU without TF32.

    Args:
        mode: ``throughput`` or ``strict``.
        threads: this process's share of the CPUs.
    """
    if mode == "throughput":
        torch.set_num_threads(threads)
        return
    # cuBLAS reads it when its first handle is made
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
