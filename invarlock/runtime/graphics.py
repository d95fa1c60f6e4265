"""The GPUs that a run had, as its provenance names them: by model and memory, not by serial number."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any


def graphics(gpu_ids: Sequence[str]) -> dict[str, Any]:
    """Return driver, the driver's CUDA version, and name and bytes of memory of the GPUs with some NVML ids.

    Without an id NVML is not asked: what a run on CPUs did not use is not its environment.

    Raises:
        ImportError: when ids are given and the binding of NVML is not installed.
    """
    if not gpu_ids:
        return {"driver": None, "driver_cuda": None, "gpus": []}
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            # NVML counts 1000 a major version and 10 a minor one
            "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
            "gpus": [_gpu(nvml, gpu_id) for gpu_id in gpu_ids],
        }
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, gpu_id: str) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByUUID(gpu_id)
    return {
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_bytes": int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    }


def _text(given: str | bytes) -> str:
    """Return a text of NVML's; versions before 12 of its binding give bytes."""
    return given.decode("utf-8") if isinstance(given, bytes) else given
