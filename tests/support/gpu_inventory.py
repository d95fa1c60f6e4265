"""GPU inventories for the fake NVML, which reads them from a file on machines without GPUs."""

from collections.abc import Callable, Sequence
from typing import Any

from invarlock.harness.devices.inventory import GB

Inventory = Callable[[Sequence[dict[str, Any]]], None]


def gpu(number: int, free: float = 80.0, **more: Any) -> dict[str, Any]:
    """Return a GPU with the given free memory in GB."""
    return {"uuid": f"GPU-{number}a", "total": 85 * GB, "free": int(free * GB), **more}


def mig(number: int) -> dict[str, Any]:
    """Return a MIG instance of 40 GB."""
    return {"uuid": f"MIG-{number}", "total": 40 * GB, "free": 39 * GB}
