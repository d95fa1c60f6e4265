"""Determinism modes: which hardware and library optimisations a run disables for reproducible numbers."""

from __future__ import annotations

import os
from typing import cast

from invarlock.documents.provenance import DeterminismSwitches

# cuBLAS reads it when it creates its first handle
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
STRICT_CUBLAS_WORKSPACE = ":4096:8"


def determinism_switches(mode: str) -> DeterminismSwitches:
    """Return the switches of a mode, as recorded in ``metadata/environment.json``; None means the library's default."""
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
    """Configure this process for a mode.

    ``throughput`` uses all threads of the process. ``strict`` uses one thread, so that sums have the same order
    with any number of workers, and only deterministic algorithms of PyTorch, on a GPU without TF32.

    Args:
        mode: ``throughput`` or ``strict``.
        threads: this process's share of the CPUs.
    """
    # imported here because the controller records the switches without needing PyTorch
    import torch

    switches = determinism_switches(mode)
    torch.set_num_threads(1 if switches["one_thread"] else threads)
    if not switches["deterministic_algorithms"]:
        return
    os.environ.setdefault(CUBLAS_WORKSPACE, cast("str", switches["cublas_workspace"]))
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = cast("bool", switches["cudnn_benchmark"])
    torch.backends.cuda.matmul.allow_tf32 = cast("bool", switches["tf32"])
    torch.backends.cudnn.allow_tf32 = cast("bool", switches["tf32"])
