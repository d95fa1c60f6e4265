"""Leases of several workers in one process: the queue, what stays locked while a worker waits, and what is released."""

import time
from pathlib import Path

import pytest

from invarlock.errors import UsageError
from invarlock.harness.devices import leases as leases_module
from invarlock.harness.devices.inventory import GB, Device, Pool
from invarlock.harness.devices.leases import POLL_SECONDS, Leases, is_locked

DEVICES = tuple(Device(f"slot/{number}", number, 8 * GB, 8 * GB) for number in range(2))
POOL = Pool("cpu", DEVICES, 1)


@pytest.fixture
def workers(tmp_path: Path) -> list[Leases]:
    """Three workers of one run on two devices, which wait only 0.05 seconds for a lease."""
    return [Leases(tmp_path / "not" / "there" / "yet", POOL, worker, wait_seconds=0.05) for worker in range(3)]


def tickets(worker: Leases) -> list[Path]:
    return sorted(worker.folder.glob("*.ticket"))


def test_each_takes_its_own_device_and_leaves_the_others_free(workers: list[Leases]) -> None:
    first, second, third = workers

    lease = first.take(2 * GB)

    assert (lease.devices, lease.rooms) == (DEVICES[:1], (8 * GB,))
    assert second.take(2 * GB).devices == DEVICES[1:]
    assert tickets(first) == []
    with pytest.raises(UsageError, match=r"2\.0 GB"):
        third.take(2 * GB)
    assert tickets(third) == []


def test_a_returned_device_is_free_for_others(workers: list[Leases]) -> None:
    first, second, third = workers
    first.take(12 * GB)
    with pytest.raises(UsageError):
        second.take(1)

    first.give_back()

    assert first.lease is None
    assert second.take(1).devices == DEVICES[1:]
    assert third.take(1).devices == DEVICES[:1]
    second.give_back()
    second.give_back()
    assert first.take(1).devices == DEVICES[1:]


def test_a_later_worker_does_not_overtake_an_earlier_one(workers: list[Leases]) -> None:
    first, second, _ = workers
    assert first.longest_wait_seconds() is None
    ticket, path = first.queue_up()
    assert 0.0 <= (second.longest_wait_seconds() or -1.0) < 60.0

    with pytest.raises(UsageError):
        second.take(1)

    assert tickets(second) == [path]
    ticket.release()
    # the ticket of a dead worker is removed
    assert second.take(1).devices == DEVICES[1:]
    assert tickets(second) == []


def test_files_that_are_not_tickets_stay_in_the_folder(workers: list[Leases]) -> None:
    other = workers[0].folder / "notes.ticket"
    other.write_text("")

    assert workers[0].take(1).devices == DEVICES[:1]
    assert other.exists()


def test_a_taken_lock_stays_locked_until_it_is_released(workers: list[Leases], tmp_path: Path) -> None:
    path = workers[0].folder / "slot_0.lock"
    assert not is_locked(path)

    workers[0].take(1)

    assert is_locked(path)
    assert not is_locked(workers[0].folder / "slot_1.lock")
    workers[0].give_back()
    assert not is_locked(path)


def test_a_wait_grows_to_half_a_second_and_no_further(workers: list[Leases], monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    workers[0].take(12 * GB)
    workers[1].wait_seconds = 3600.0
    clock = iter(range(0, 100_000, 400))
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(f"{leases_module.__name__}.time.monotonic", lambda: next(clock))

    with pytest.raises(UsageError, match="1 hours"):
        workers[1].take(1)

    assert pauses[:5] == [POLL_SECONDS[0] * 2**step for step in range(5)]
    assert pauses[5:] == [POLL_SECONDS[1]] * len(pauses[5:])
    assert len(pauses) > 6
