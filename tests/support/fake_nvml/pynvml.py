"""A fake ``pynvml`` that reads a GPU inventory from a file, for machines without a GPU: put its folder on PYTHONPATH.

FAKE_NVML is the path of a file with a list of GPUs:
``{"uuid", "name", "total", "free", "processes": [pid], "mig": [GPU, …]}``.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    if "FAKE_NVML" not in os.environ:
        raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown() -> None:
    pass


def _gpus() -> list[dict[str, Any]]:
    gpus: list[dict[str, Any]] = json.loads(Path(os.environ["FAKE_NVML"]).read_text())
    return gpus


def nvmlDeviceGetCount() -> int:
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    return _gpus()[index]


def nvmlDeviceGetMigMode(handle: dict[str, Any]) -> list[int]:
    if "mig" not in handle:
        raise NVMLError("Not Supported")
    return [1, 1]


def nvmlDeviceGetMaxMigDeviceCount(handle: dict[str, Any]) -> int:
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle: dict[str, Any], number: int) -> dict[str, Any]:
    if number >= len(handle["mig"]):
        raise NVMLError("Not Found")
    part: dict[str, Any] = handle["mig"][number]
    return part


def nvmlDeviceGetMemoryInfo(handle: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(total=handle["total"], free=handle["free"], used=handle["total"] - handle["free"])


def nvmlDeviceGetComputeRunningProcesses(handle: dict[str, Any]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in handle.get("processes", [])]


def nvmlDeviceGetUUID(handle: dict[str, Any]) -> str:
    return str(handle["uuid"])


def nvmlDeviceGetHandleByUUID(uuid: str) -> dict[str, Any]:
    for gpu in _gpus():
        for part in (gpu, *gpu.get("mig", [])):
            if part["uuid"] == uuid:
                found: dict[str, Any] = part
                return found
    raise NVMLError("Not Found")


def nvmlDeviceGetName(handle: dict[str, Any]) -> str:
    return str(handle["name"])


def nvmlSystemGetDriverVersion() -> str:
    return "570.86.15"


def nvmlSystemGetCudaDriverVersion() -> int:
    return 12080
