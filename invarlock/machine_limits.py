"""The cores and the memory that this process may use: the machine's, within the limits of its control groups.

Containers and the jobs of a cluster have such limits. A process with more threads than it has processor time for is
slowed down, and one that exceeds its memory is killed.

Source: the kernel's documentation of control groups, version 2 (``cpu.max``, ``memory.max``) and version 1
(``cpu.cfs_quota_us``, ``memory.limit_in_bytes``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        # above memory.high, processes are slowed down until they need less
        for limit in map(_number, (folder / name for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))):
            if limit is not None and used is not None:
                available = min(available, limit - used + _reclaimable(folder))
    return max(0, available)


def _control_groups(proc: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it, for one controller."""
    own = [line.split(":", 2)[1:] for line in _lines(proc / "self" / "cgroup") if line.count(":") >= 2]
    mounts: dict[str, list[tuple[PurePosixPath, Path]]] = {controller: [], "": []}
    for line in _lines(proc / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if len(before.split()) < 5 or kind not in ("cgroup", "cgroup2"):
            continue
        if kind == "cgroup2" or controller in options.split(" ")[-1].split(","):
            root, point = before.split()[3:5]
            mounts["" if kind == "cgroup2" else controller].append((PurePosixPath(root), Path(point)))
    for controllers, name in own:
        for named in {"", controller}.intersection(controllers.split(",")):
            yield from _upwards(mounts[named], PurePosixPath(name))


def _upwards(mounts: Sequence[tuple[PurePosixPath, Path]], path: PurePosixPath) -> Iterator[Path]:
    """Yield the folders of a group and of those around it, given where the groups below some roots are mounted."""
    parts = [(point, path.relative_to(root)) for root, point in mounts if path.is_relative_to(root)]
    # a container may see the path that its group has outside
    for point, inside in parts or [(point, PurePosixPath()) for _, point in mounts]:
        for part in (inside, *inside.parents):
            if (point / part).is_dir():
                yield point / part


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel, none if it does not exist; names in it may have any bytes."""
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


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
