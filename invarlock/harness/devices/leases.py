"""Leases on the devices of a run, which workers coordinate by locking files.

Example::

    leases = Leases(folder, pool, worker=3)
    lease = leases.take(need_bytes)         # waits for its turn; all devices at once or none
    …
    leases.give_back()

A lease is a lock on one file per device, which the kernel releases when the process dies. Waiting workers form a
first-come, first-served queue of locked files, so small models cannot keep overtaking one that needs all devices.
Devices are tried under one more lock without waiting, so no worker keeps a device while waiting for another.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

from invarlock.errors import UsageError
from invarlock.harness.devices.inventory import Device, Pool
from invarlock.harness.devices.memory_plan import devices_needed, fits
from invarlock.problems import Code

POLL_SECONDS = (0.02, 0.5)
# Longer than the default time limit of a case, so after this time another program must be using the memory.
WAIT_SECONDS = 12 * 3600.0
# A worker whose model is on a GPU may keep the GPU this long while others wait.
TURN_SECONDS = 300.0
_TICKET = re.compile(r"(\d{20})-\d+\.ticket")


@dataclass(frozen=True)
class Lease:
    """The devices leased to a worker, and how many bytes of each it may use."""

    devices: tuple[Device, ...]
    rooms: tuple[int, ...]


def choose(free: Sequence[Device], need_bytes: int, pool: Pool, worker: int) -> tuple[Device, ...] | None:
    """Return the free devices that a worker should take, or None if it must wait.

    The worker takes as many devices as its model needs, starting with its own: of G devices, worker i prefers device
    i mod G. A model that does not fit into the whole pool gets all of it.

    Args:
        free: the devices without a lease, with their currently free memory.
        need_bytes: the memory that is needed.
        pool: all devices, with the memory that was free when the run began.
        worker: the number of the worker.
    """
    places = len(pool.devices)
    if not pool.combinable:
        # a process that has used one MIG instance cannot use another
        own = [device for device in free if device.index == worker % places]
        return tuple(own) or None
    count = devices_needed(need_bytes, pool)
    order = sorted(free, key=lambda device: (device.index - worker) % places)
    if count is None:
        return tuple(order) if len(order) == places else None
    if count == 1:
        return next(((device,) for device in order if fits(need_bytes, [pool.room(device)])), None)
    taken = sorted(order, key=pool.room, reverse=True)[:count]
    if len(taken) < count or not fits(need_bytes, [pool.room(device) for device in taken]):
        return None
    return tuple(sorted(taken, key=lambda device: device.index))


class Leases:
    """A worker's access to the devices of its run; a worker has at most one lease."""

    def __init__(self, folder: Path, pool: Pool, worker: int, wait_seconds: float = WAIT_SECONDS) -> None:
        self.wait_seconds = wait_seconds
        self.folder = folder
        self.pool = pool
        self.worker = worker
        self.lease: Lease | None = None
        self._held: list[filelock.FileLock] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._counter = filelock.FileLock(folder / "counter.lock")

    def take(self, need_bytes: int) -> Lease:
        """Wait for a turn and for devices with enough memory, and return the lease on them.

        Raises:
            UsageError: if this takes longer than ``wait_seconds``.
        """
        assert self.lease is None, "a worker has at most one lease"
        deadline = time.monotonic() + self.wait_seconds
        pause = POLL_SECONDS[0]
        ticket, own = self.queue_up()
        try:
            while not self._try(own, need_bytes):
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"no device had {need_bytes / 1e9:.1f} GB free for {self.wait_seconds / 3600:.0f} hours",
                        code=Code.DEVICE_UNAVAILABLE,
                    )
                time.sleep(pause)
                pause = min(POLL_SECONDS[1], 2 * pause)
        finally:
            with self._counter:
                own.unlink(missing_ok=True)
            ticket.release()
        assert self.lease is not None
        return self.lease

    def give_back(self) -> None:
        """Release the lease, if any."""
        for lock in self._held:
            lock.release()
        self._held, self.lease = [], None

    def longest_wait_seconds(self) -> float | None:
        """Return how long the first worker in the queue has been waiting, or None if the queue is empty."""
        with self._counter:
            first = next(iter(self._waiting()), None)
        return None if first is None else (time.monotonic_ns() - _since(first)) / 1e9

    def queue_up(self) -> tuple[filelock.FileLock, Path]:
        """Add a ticket to the end of the queue, and return its lock, which is already taken, and its file."""
        with self._counter:
            own = self.folder / f"{time.monotonic_ns():020d}-{os.getpid()}.ticket"
            ticket = filelock.FileLock(own)
            ticket.acquire(blocking=False)
        return ticket, own

    def _waiting(self, own: Path | None = None) -> list[Path]:
        """Return the tickets in the queue, oldest first, after removing those of dead processes."""
        found = []
        for path in sorted(path for path in self.folder.iterdir() if _TICKET.fullmatch(path.name)):
            if path == own or is_locked(path):
                found.append(path)
            else:
                path.unlink(missing_ok=True)
        return found

    def _try(self, own: Path, need_bytes: int) -> bool:
        with self._counter:
            if self._waiting(own)[0] != own:
                return False
            devices = self.pool.refreshed().devices
            locks = {device: filelock.FileLock(self._lock_path(device)) for device in devices}
            free = [device for device, lock in locks.items() if _acquired(lock)]
            chosen = choose(free, need_bytes, self.pool, self.worker) or ()
            for device in free:
                if device not in chosen:
                    locks[device].release()
        if not chosen:
            return False
        self._held = [locks[device] for device in chosen]
        self.lease = Lease(chosen, tuple(self.pool.room(device) for device in chosen))
        return True

    def _lock_path(self, device: Device) -> Path:
        return self.folder / f"{device.id.replace('/', '_')}.lock"


def _since(ticket: Path) -> int:
    return int(ticket.name.partition("-")[0])


def _acquired(lock: filelock.FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a running process has the lock on a file."""
    lock = filelock.FileLock(path)
    if not _acquired(lock):
        return True
    lock.release()
    return False
