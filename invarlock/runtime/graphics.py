"""The GPUs of a run for its provenance: by model and memory, not by serial number."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from invarlock.documents.provenance import Gpu, Graphics


def graphics(gpu_ids: Sequence[str]) -> Graphics:
    """Return the driver, its CUDA version, and name and memory in bytes of the GPUs with the given NVML ids.

    Without ids NVML is not queried: GPUs that a CPU run did not use are not part of its environment.

    Raises:
        ImportError: when ids are given and the NVML binding is not installed.
    """
    if not gpu_ids:
        return {"driver": None, "driver_cuda": None, "gpus": []}
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            # NVML encodes a version as 1000 * major + 10 * minor
            "driver_cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
            "gpus": [_gpu(nvml, gpu_id) for gpu_id in gpu_ids],
        }
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, gpu_id: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByUUID(gpu_id)
    return {
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "memory_bytes": int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    }


def _text(given: str | bytes) -> str:
    """Return a text from NVML; versions of its binding before 12 return bytes."""
    return given.decode("utf-8") if isinstance(given, bytes) else given
