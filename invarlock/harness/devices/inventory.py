"""The devices that a run may use: GPUs listed by NVML, or shares of the CPUs.

Example::

    pool = make_pool(settings, requires="gpu", workers=8)
    pool.devices[0]     # Device(id="GPU-5a…", index=0, total_bytes=85899345920, free_bytes=85000000000, …)

GPUs are numbered in the order of their PCI bus ids, as in ``nvidia-smi``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from invarlock.errors import UsageError
from invarlock.jsonio import read_json, write_json
from invarlock.machine_limits import available_memory_bytes, usable_cores
from invarlock.problems import Code
from invarlock.settings import Settings

GB = 1_000_000_000


@dataclass(frozen=True)
class Device:
    """A GPU, a MIG instance, or a share of the CPUs; ``index`` is its place in the pool."""

    id: str
    index: int
    total_bytes: int
    free_bytes: int
    used_by_others: bool = False


@dataclass(frozen=True)
class Pool:
    """The devices of a run.

    Attributes:
        kind: ``gpu`` or ``cpu``.
        devices: the devices in the order of their index, which is also CUDA's index in the run's workers.
        threads: the number of CPU threads of a worker.
        combinable: whether a model may be spread over several devices; false for MIG instances, because CUDA shows a
            process only one of them.
        bytes_per_device: the memory to plan with on each device, None to use its free memory.
    """

    kind: Literal["gpu", "cpu"]
    devices: tuple[Device, ...]
    threads: int
    combinable: bool = True
    bytes_per_device: int | None = None

    def room(self, device: Device) -> int:
        """Return how many bytes of a device models may use."""
        return device.free_bytes if self.bytes_per_device is None else min(device.free_bytes, self.bytes_per_device)

    def refreshed(self) -> Pool:
        """Return the pool with each device's currently free memory."""
        if self.kind == "cpu":
            return self
        now = {gpu.id: gpu.free_bytes for gpu in read_gpus()}
        devices = (replace(device, free_bytes=now.get(device.id, device.free_bytes)) for device in self.devices)
        return replace(self, devices=tuple(devices))

    def write(self, path: Path) -> None:
        """Write the pool to a JSON file that the workers read."""
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> Pool:
        """Read the pool that the controller wrote."""
        document = read_json(path)
        return Pool(**{**document, "devices": tuple(Device(**row) for row in document["devices"])})


def make_pool(settings: Settings, requires: str, workers: int) -> Pool:
    """Return the devices of a run, based on its suite and settings.

    Raises:
        UsageError: if a GPU is needed but none is usable, or if a named GPU does not exist.
    """
    cores = usable_cores()
    planned = settings.gpu_memory_per_device
    per_device = None if planned is None else int(planned * GB)
    if requires != "gpu":
        slots = min(workers, cores)
        share = per_device or available_memory_bytes() // slots
        devices = tuple(Device(f"cpu{index}", index, share, share) for index in range(slots))
        return Pool("cpu", devices, _threads(cores // slots), bytes_per_device=per_device)
    gpus = _usable(_numbered(_named(_visible(read_gpus(), settings), settings)), settings)
    if settings.num_gpus is not None:
        if settings.num_gpus > len(gpus):
            raise UsageError(
                f"NUM_GPUS: {settings.num_gpus} GPUs requested, but only {len(gpus)} can be used; lower it",
                code=Code.DEVICE_UNAVAILABLE,
            )
        gpus = gpus[: settings.num_gpus]
    whole = all(not gpu.id.startswith("MIG-") for gpu in gpus)
    threads = _threads(max(1, cores // max(1, min(workers, len(gpus)))))
    return Pool("gpu", tuple(_numbered(gpus)), threads, combinable=whole, bytes_per_device=per_device)


def _threads(share: int) -> int:
    """Return the number of threads of a worker with this share of the CPUs, limited by ``OMP_NUM_THREADS``."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(requested)) if requested.isdecimal() and int(requested) > 0 else share


def read_gpus() -> list[Device]:
    """Return the GPUs of this machine; a GPU partitioned by MIG is replaced by its instances.

    Raises:
        UsageError: if NVML is not installed.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        raise UsageError(
            "NVML is required to find GPUs; run: pip install nvidia-ml-py", code=Code.EXTRA_NOT_INSTALLED
        ) from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise UsageError(
            f"no NVIDIA GPU found ({error}); install the NVIDIA driver, or use -m smoke", code=Code.DEVICE_UNAVAILABLE
        ) from None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        parts = [part for handle in handles for part in _parts(nvml, handle)]
        return [_device(nvml, handle, index) for index, handle in enumerate(parts)]
    except nvml.NVMLError as error:
        raise UsageError(f"NVML cannot read a GPU ({error}); check nvidia-smi", code=Code.DEVICE_UNAVAILABLE) from None
    finally:
        nvml.nvmlShutdown()


def _parts(nvml: Any, handle: Any) -> Iterator[Any]:
    """Yield a GPU, or its MIG instances if it is partitioned."""
    try:
        divided = nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    except nvml.NVMLError:
        # GPUs that cannot be partitioned have no MIG mode
        divided = False
    if not divided:
        yield handle
        return
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError:
            continue


def _device(nvml: Any, handle: Any, index: int) -> Device:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    others = [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    return Device(str(nvml.nvmlDeviceGetUUID(handle)), index, int(memory.total), int(memory.free), bool(others))


def _visible(gpus: Sequence[Device], settings: Settings) -> list[Device]:
    """Return the GPUs in ``CUDA_VISIBLE_DEVICES``, in its order; as in CUDA, an unknown entry ends the list."""
    given = settings.cuda_visible_devices
    if given is None:
        return list(gpus)
    shown: list[Device] = []
    for name in given.split(","):
        gpu = _find(gpus, name.strip())
        if gpu is None or gpu in shown:
            break
        shown.append(gpu)
    if not shown:
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES: {given!r} shows none of the {len(gpus)} GPUs; unset it",
            code=Code.DEVICE_UNAVAILABLE,
        )
    return shown


def _named(gpus: Sequence[Device], settings: Settings) -> list[Device]:
    """Return the GPUs in ``GPU_ID_LIST``; numbers in it are indices into the visible GPUs."""
    if settings.gpu_ids is None:
        return list(gpus)
    chosen = []
    visible = _numbered(gpus)
    for name in settings.gpu_ids:
        found = _find(visible, name)
        if found is None or found in chosen:
            problem = "listed twice" if found is not None else f"not one of the {len(gpus)} visible GPUs"
            raise UsageError(f"GPU_ID_LIST: {name!r} is {problem}", code=Code.DEVICE_UNAVAILABLE)
        chosen.append(found)
    return chosen


def _usable(gpus: Sequence[Device], settings: Settings) -> list[Device]:
    """Return the GPUs with enough free memory and, if exclusive use is required, without another process on them."""
    reasons = []
    usable = []
    for gpu in gpus:
        if settings.gpu_require_idle and gpu.used_by_others:
            reasons.append(f"GPU {gpu.id} is used by other processes (GPU_REQUIRE_IDLE=1)")
        elif gpu.free_bytes < settings.gpu_min_free_gb * GB:
            reasons.append(f"GPU {gpu.id} has {gpu.free_bytes / GB:.1f} GB free (GPU_MIN_FREE_GB)")
        else:
            usable.append(gpu)
    if not usable:
        raise UsageError("; ".join(reasons) or "no GPU found; use -m smoke", code=Code.DEVICE_UNAVAILABLE)
    return usable


def _find(gpus: Sequence[Device], name: str) -> Device | None:
    """Return the GPU with a given number or id; the id may be abbreviated to a unique prefix."""
    if name.isdigit():
        return gpus[int(name)] if int(name) < len(gpus) else None
    if not name.startswith(("GPU-", "MIG-")):
        return None
    found = [gpu for gpu in gpus if gpu.id.startswith(name)]
    return found[0] if len(found) == 1 else None


def _numbered(gpus: Sequence[Device]) -> list[Device]:
    return [replace(gpu, index=index) for index, gpu in enumerate(gpus)]
