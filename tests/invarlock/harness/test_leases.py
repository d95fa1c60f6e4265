"""Leases among real processes: no two share a device, none waits for ever, and dead processes hold no lease."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu_inventory import Inventory, gpu, mig

from invarlock.harness.devices import inventory as inventory_module
from invarlock.harness.devices.inventory import GB, Device, Pool
from invarlock.harness.devices.leases import Leases, choose
from invarlock.settings import resolve_settings

PROGRAM = Path(__file__).parents[2] / "support" / "lease_worker.py"
Event = tuple[str, str, list[str], int]


def make_pool(count: int, room: float = 80.0) -> Pool:
    devices = tuple(Device(f"cpu{number}", number, int(room * GB), int(room * GB)) for number in range(count))
    return Pool("cpu", devices, 1)


def gpu_pool() -> Pool:
    """Return the pool of all GPUs that NVML lists; their free memory is read again whenever a lease is taken."""
    return inventory_module.make_pool(resolve_settings({}, {}), "gpu", workers=4)


def start(tmp_path: Path, pool: Pool, worker: int, need: float, hold: float, times: int) -> subprocess.Popen[bytes]:
    pool.write(tmp_path / "pool.json")
    numbers = [str(number) for number in (worker, need, hold, times)]
    places = [str(tmp_path / name) for name in ("locks", "pool.json", "log")]
    return subprocess.Popen([sys.executable, str(PROGRAM), *places, *numbers])


def events(tmp_path: Path) -> list[Event]:
    path = tmp_path / "log"
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return sorted(((what, who, names.split(","), int(at)) for what, who, names, at in rows), key=lambda row: row[3])


def held_at_once(found: list[Event]) -> int:
    """Return the largest number of leases held at once, and check that no device was held twice at a time."""
    holders: dict[str, str] = {}
    most = 0
    for what, who, devices, _ in found:
        for device in devices:
            assert (device in holders) == (what == "give"), (device, holders, who)
            if what == "take":
                holders[device] = who
            else:
                assert holders.pop(device) == who
        most = max(most, len(set(holders.values())))
    assert not holders
    return most


def wait_for(tmp_path: Path, takes: int) -> None:
    deadline = time.monotonic() + 60
    while sum(what == "take" for what, *_ in events(tmp_path)) < takes:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("gpus", [[gpu(0), gpu(1)], [gpu(0, mig=[mig(0), mig(1)])]], ids=["GPUs", "MIG"])
def test_four_workers_take_turns_on_two_devices(
    gpus: list[dict[str, Any]], inventory: Inventory, tmp_path: Path
) -> None:
    inventory(gpus)
    pool = gpu_pool()
    processes = [start(tmp_path, pool, worker, 10, 0.1, 4) for worker in range(4)]

    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]

    found = events(tmp_path)
    turns: dict[str, int] = defaultdict(int)
    for what, who, *_ in found:
        turns[who] += what == "take"
    assert dict(turns) == {str(worker): 4 for worker in range(4)}
    assert held_at_once(found) == 2
    if not pool.combinable:
        # a process that has used one MIG instance cannot see any other
        assert all(devices == [f"MIG-{int(who) % 2}"] for _, who, devices, _ in found)


@pytest.mark.slow
def test_models_of_one_two_and_four_devices_share_four_without_a_deadlock(inventory: Inventory, tmp_path: Path) -> None:
    inventory([gpu(number) for number in range(4)])
    needs = [10, 100, 250, 10, 100, 250]
    processes = [start(tmp_path, gpu_pool(), worker, need, 0.03, 4) for worker, need in enumerate(needs)]

    assert [process.wait(90) for process in processes] == [0] * 6

    found = events(tmp_path)
    held_at_once(found)
    sizes = {who: len(devices) for _, who, devices, _ in found}
    assert sizes == {"0": 1, "1": 2, "2": 4, "3": 1, "4": 2, "5": 4}


def test_the_lease_of_a_killed_worker_is_free_and_so_is_its_place_in_the_queue(tmp_path: Path) -> None:
    pool = make_pool(2)
    holder = start(tmp_path, pool, 0, 100, 600, 1)
    wait_for(tmp_path, 1)
    waiting = start(tmp_path, pool, 1, 100, 0.01, 1)
    locks = tmp_path / "locks"
    while not list(locks.glob("*.ticket")):
        time.sleep(0.02)
    last = start(tmp_path, pool, 2, 10, 0.01, 1)
    while len(list(locks.glob("*.ticket"))) < 2:
        time.sleep(0.02)

    os.kill(waiting.pid, signal.SIGKILL)
    os.kill(holder.pid, signal.SIGKILL)

    assert last.wait(60) == 0
    assert [(holder.wait(10), waiting.wait(10))] == [(-signal.SIGKILL, -signal.SIGKILL)]
    assert [who for what, who, *_ in events(tmp_path) if what == "give"] == ["2"]
    assert not list(locks.glob("*.ticket"))


def test_a_worker_that_needs_all_devices_is_not_overtaken(tmp_path: Path) -> None:
    pool = make_pool(2)
    first = Leases(tmp_path / "locks", pool, 0)
    first.take(10 * GB)
    large = start(tmp_path, pool, 1, 100, 0.05, 1)
    while first.longest_wait_seconds() is None:
        time.sleep(0.02)
    small = start(tmp_path, pool, 2, 10, 0.05, 1)
    while len(list((tmp_path / "locks").glob("*.ticket"))) < 2:
        time.sleep(0.02)

    first.give_back()

    assert (large.wait(60), small.wait(60)) == (0, 0)
    assert [who for what, who, *_ in events(tmp_path) if what == "take"] == ["1", "2"]
    assert first.longest_wait_seconds() is None


def test_a_gpu_that_another_process_filled_during_the_run_is_waited_for(inventory: Inventory, tmp_path: Path) -> None:
    inventory([gpu(0), gpu(1)])
    pool = gpu_pool()
    inventory([gpu(0, free=5), gpu(1, free=5)])
    worker = start(tmp_path, pool, 0, 10, 0.01, 1)
    while worker.poll() is None and not list((tmp_path / "locks").glob("*.ticket")):
        time.sleep(0.02)
    time.sleep(0.2)
    before = events(tmp_path)

    inventory([gpu(0, free=5), gpu(1)])

    assert worker.wait(60) == 0
    assert before == []
    assert [(what, devices) for what, _, devices, _ in events(tmp_path)] == [("take", ["GPU-1a"]), ("give", ["GPU-1a"])]


@pytest.mark.parametrize(
    ("worker", "need", "free", "wanted"),
    [
        (0, 10, [0, 1, 2, 3], [0]),
        (2, 10, [0, 1, 2, 3], [2]),
        (6, 10, [0, 1, 3], [3]),
        (1, 100, [0, 1, 2, 3], [1, 2]),
        (3, 100, [0, 1, 3], [0, 3]),
        (0, 100, [2], None),
        (0, 10, [], None),
        (0, 250, [0, 1, 2, 3], [0, 1, 2, 3]),
        (0, 250, [0, 1, 2], None),
        # more memory than the whole pool has: the retry of a case that ran out of memory takes all devices
        (0, 1000, [0, 1, 2, 3], [0, 1, 2, 3]),
        (0, 1000, [0, 1, 2], None),
    ],
)
def test_a_worker_takes_its_own_device_first_and_all_that_it_needs_or_none(
    worker: int, need: float, free: list[int], wanted: list[int] | None
) -> None:
    pool = make_pool(4)

    chosen = choose([pool.devices[index] for index in free], int(need * GB), pool, worker)

    assert (None if chosen is None else [device.index for device in chosen]) == wanted


def test_a_model_on_several_devices_takes_those_with_the_most_room() -> None:
    rooms = [20, 80, 40, 80]
    devices = tuple(Device(f"cpu{number}", number, room * GB, room * GB) for number, room in enumerate(rooms))
    pool = Pool("cpu", devices, 1)

    assert choose(devices, 100 * GB, pool, 0) == (devices[1], devices[3])
    assert choose(devices[:3], 100 * GB, pool, 0) == (devices[1], devices[2])
    assert choose(devices[::2], 100 * GB, pool, 0) is None


def test_a_worker_takes_its_own_device_and_no_other_where_devices_cannot_be_combined() -> None:
    pool = replace(make_pool(2), combinable=False)
    first, second = pool.devices

    assert choose([first, second], 10 * GB, pool, 3) == (second,)
    assert choose([first], 10 * GB, pool, 3) is None


def test_a_device_whose_memory_another_process_uses_is_left_out() -> None:
    pool = make_pool(2)
    taken = Device("cpu0", 0, 80 * GB, 5 * GB)

    assert choose([taken, pool.devices[1]], 10 * GB, pool, 0) == (pool.devices[1],)
    assert choose([taken], 10 * GB, pool, 0) is None
