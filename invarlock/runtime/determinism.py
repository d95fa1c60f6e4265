"""How much of the hardware's freedom a run gives up for the same numbers each time."""

from __future__ import annotations

import os
from typing import Any

# cuBLAS reads it when its first handle is made
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
STRICT_CUBLAS_WORKSPACE = ":4096:8"


def determinism_switches(mode: str) -> dict[str, Any]:
    """Return what a mode switches, as ``metadata/environment.json`` records it; None is the library's own choice."""
    if mode == "throughput":
        return {
            "mode": mode,
            "deterministic_algorithms": False,
            "cudnn_benchmark": None,
            "tf32": None,
            "cublas_workspace": os.environ.get(CUBLAS_WORKSPACE),
            "one_thread": False,
        }
    return {
        "mode": mode,
        "deterministic_algorithms": True,
        "cudnn_benchmark": False,
        "tf32": False,
        "cublas_workspace": os.environ.get(CUBLAS_WORKSPACE, STRICT_CUBLAS_WORKSPACE),
        "one_thread": True,
    }


def apply_determinism(mode: str, threads: int) -> None:
    """Set up this process for a mode.

    ``throughput`` computes with all threads that the process has. ``strict`` takes one, whose sums have one order
    however many workers there are, and asks PyTorch for deterministic algorithms only, on a GPU without TF32.

    Args:
        mode: ``throughput`` or ``strict``.
        threads: this process's share of the CPUs.
    """
    # imported here: the controller records the switches, and has no use for PyTorch
    import torch

    switches = determinism_switches(mode)
    torch.set_num_threads(1 if switches["one_thread"] else threads)
    if not switches["deterministic_algorithms"]:
        return
    os.environ.setdefault(CUBLAS_WORKSPACE, switches["cublas_workspace"])
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = switches["cudnn_benchmark"]
    torch.backends.cuda.matmul.allow_tf32 = switches["tf32"]
    torch.backends.cudnn.allow_tf32 = switches["tf32"]
