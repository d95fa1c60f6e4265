"""The devices of a run: a fake NVML lists an inventory from a file, and every setting selects among them."""

import os
from pathlib import Path
from typing import Any

import pytest
from gpu_inventory import Inventory, gpu, mig

from invarlock.catalog.models import Model
from invarlock.errors import UsageError
from invarlock.harness.devices.inventory import GB, Pool, make_pool
from invarlock.harness.devices.memory_plan import devices_needed, needed_bytes
from invarlock.problems import Code
from invarlock.settings import resolve_settings


def pool(workers: int = 4, requires: str = "gpu", **variables: str) -> Pool:
    return make_pool(resolve_settings({}, variables), requires, workers)


def ids(found: Pool) -> list[str]:
    return [device.id for device in found.devices]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_all_gpus_are_in_the_pool_in_their_order(count: int, inventory: Inventory) -> None:
    inventory([gpu(number) for number in range(count)])

    found = pool()

    assert ids(found) == [f"GPU-{number}a" for number in range(count)]
    assert [device.index for device in found.devices] == list(range(count))
    assert (found.kind, found.combinable) == ("gpu", True)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, ["GPU-2a", "GPU-0a"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-3a,GPU-1"}, ["GPU-3a", "GPU-1a"]),
        ({"CUDA_VISIBLE_DEVICES": "1,9,0"}, ["GPU-1a"]),
        ({"CUDA_VISIBLE_DEVICES": "3,2", "GPU_ID_LIST": "1"}, ["GPU-2a"]),
        ({"GPU_ID_LIST": "GPU-2a,0"}, ["GPU-2a", "GPU-0a"]),
        ({"NUM_GPUS": "3"}, ["GPU-0a", "GPU-1a", "GPU-2a"]),
        ({"GPU_MIN_FREE_GB": "50"}, ["GPU-0a", "GPU-2a", "GPU-3a"]),
        ({"GPU_REQUIRE_IDLE": "1"}, ["GPU-0a", "GPU-1a", "GPU-3a"]),
    ],
)
def test_settings_choose_among_the_gpus(variables: dict[str, Any], wanted: list[str], inventory: Inventory) -> None:
    inventory([gpu(0), gpu(1, free=20.0), gpu(2, processes=[4711]), gpu(3)])

    assert ids(pool(**variables)) == wanted


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES: '' shows none of the 2 GPUs"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "shows none of the 2 GPUs"),
        ({"CUDA_VISIBLE_DEVICES": "0", "GPU_ID_LIST": "1"}, "GPU_ID_LIST: '1' is not one of the 1 visible GPUs"),
        ({"GPU_ID_LIST": "0,GPU-0a"}, "GPU_ID_LIST: 'GPU-0a' is listed twice"),
        ({"NUM_GPUS": "3"}, "NUM_GPUS: 3 GPUs requested, but only 2 can be used"),
        ({"GPU_MIN_FREE_GB": "99"}, "GPU GPU-0a has 80.0 GB free (GPU_MIN_FREE_GB); GPU GPU-1a"),
    ],
)
def test_an_impossible_choice_of_gpus_is_refused(variables: dict[str, Any], message: str, inventory: Inventory) -> None:
    inventory([gpu(0), gpu(1)])

    with pytest.raises(UsageError) as refused:
        pool(**variables)

    assert message in str(refused.value)
    assert refused.value.code is Code.DEVICE_UNAVAILABLE


def test_a_machine_without_a_driver_is_one_clear_error(inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAKE_NVML", raising=False)

    with pytest.raises(UsageError, match="install the NVIDIA driver, or use -m smoke"):
        pool()


def test_a_divided_gpu_counts_as_its_parts_and_no_model_spans_them(inventory: Inventory) -> None:
    inventory([gpu(0, mig=[mig(0), mig(1)]), gpu(1)])

    found = pool(CUDA_VISIBLE_DEVICES="MIG-1,MIG-0")

    assert ids(found) == ["MIG-1", "MIG-0"]
    assert devices_needed(30 * GB, found) == 1
    assert devices_needed(60 * GB, found) is None


def test_planned_memory_limits_free_memory(inventory: Inventory, tmp_path: Path) -> None:
    inventory([gpu(0), gpu(1, free=10.0)])

    found = pool(GPU_MEMORY_PER_DEVICE="24")

    found.write(tmp_path / "pool.json")
    assert Pool.read(tmp_path / "pool.json") == found
    assert [found.room(device) for device in found.devices] == [24 * GB, 10 * GB]


def test_the_models_of_the_catalogue_need_what_their_rows_say() -> None:
    row: dict[str, Any] = {
        "architecture": "llama",
        "licence": "x",
        "parameters": 34_388_917_248,
        "weight_bytes": 68_777_834_496,
    }
    large = Model("a/large", min_gpu_memory_gb=140, **row)
    small = Model("a/small", min_gpu_memory_gb=0, **row)

    assert needed_bytes(large, "gpu") == 140 * GB
    assert needed_bytes(small, "gpu") == int(68_777_834_496 * 1.1) + 2 * GB
    assert needed_bytes(small, "cpu") > 4 * 34_388_917_248


@pytest.mark.parametrize(("value", "threads"), [("1", 1), ("9999", None), ("", None), ("many", None), ("0", None)])
def test_a_worker_takes_no_more_threads_than_openmp_may(
    value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)

    assert pool(1, requires="cpu").threads == (threads or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("workers", [1, 2, 3, 64])
def test_cpu_slots_never_oversubscribe_the_cores(workers: int) -> None:
    cores = len(os.sched_getaffinity(0))

    found = pool(workers, requires="cpu")

    assert len(found.devices) == min(workers, cores)
    assert len(found.devices) * found.threads <= cores
    assert sum(found.room(device) for device in found.devices) > 0
