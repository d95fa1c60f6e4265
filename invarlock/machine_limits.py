"""The cores and the memory that this process may use: the machine's, within the limits of its control groups.

Containers and the jobs of a cluster have such limits. A process with more threads than it has processor time for is
slowed down, and one that exceeds its memory is killed.

Source: the kernel's documentation of control groups, version 2 (``cpu.max``, ``memory.max``) and version 1
(``cpu.cfs_quota_us``, ``memory.limit_in_bytes``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from invarlock.errors import UsageError
from invarlock.problems import Code

PROC = Path("/proc")


def usable_cores(proc: Path = PROC) -> int:
    """Return how many cores this process may keep busy, at least 1.

    Args:
        proc: where the kernel's process information is mounted.
    """
    # other systems than Linux have no such function
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _control_groups(proc, "cpu"):
        quota, period = _cpu_quota(folder)
        if quota > 0 and period > 0:
            cores = min(cores, quota // period)
    return max(1, cores)


def available_memory_bytes(proc: Path = PROC) -> int:
    """Return how many bytes of memory new processes can use.

    Args:
        proc: where the kernel's process information is mounted.

    Raises:
        UsageError: if the kernel does not say.
    """
    rows = dict(line.split(":", 1) for line in (proc / "meminfo").read_text("ascii").splitlines())
    if "MemAvailable" not in rows:
        raise UsageError(
            f"{proc}/meminfo has no MemAvailable; set the memory with GPU_MEMORY_PER_DEVICE",
            code=Code.DEVICE_UNAVAILABLE,
        )
    available = 1024 * int(rows["MemAvailable"].split()[0])
    for folder in _control_groups(proc, "memory"):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            available = min(available, limit - used + _reclaimable(folder))
    return max(0, available)


def _control_groups(proc: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it, for one controller."""
    try:
        own = [line.split(":", 2)[1:] for line in (proc / "self" / "cgroup").read_text().splitlines()]
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        kind, options = after.split()[0], after.split()[-1]
        if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and controller not in options.split(",")):
            continue
        named = controller if kind == "cgroup" else ""
        root, point = before.split()[3:5]
        for controllers, path in own:
            if named in controllers.split(","):
                yield from _upwards(Path(point), PurePosixPath(root), PurePosixPath(path))


def _upwards(point: Path, root: PurePosixPath, path: PurePosixPath) -> Iterator[Path]:
    # a container may see the path that its group has outside
    inside = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    for part in (inside, *inside.parents):
        if (point / part).is_dir():
            yield point / part


def _cpu_quota(folder: Path) -> tuple[int, int]:
    """Return the processor time of a group in each period, both in microseconds; 0 and 0 if it has no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return (0, 0) if quota == "max" else (int(quota), int(period))
    except (OSError, ValueError):
        pass
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return (0, 0) if quota_us is None or period_us is None else (quota_us, period_us)


def _number(*paths: Path) -> int | None:
    """Return the number in the first of these files that exists; None for ``max``, or if none of them exists."""
    for path in paths:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            continue
    return None


def _reclaimable(folder: Path) -> int:
    """Return the bytes of a group's memory that hold files, which the kernel gives up before it kills a process."""
    try:
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    # version 1 counts the groups below this one in separate rows
    prefix = "total_" if "total_active_file" in rows else ""
    return sum(int(rows.get(f"{prefix}{name}_file", 0)) for name in ("active", "inactive"))
