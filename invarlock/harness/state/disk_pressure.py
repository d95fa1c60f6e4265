"""``state/disk_pressure.json``: how full a run's disk is, and how much of it the run uses, updated during the run.

Example::

    pressure = DiskPressure(run.directory)
    pressure.start()        # writes the file now, and then four times a minute
    pressure.stop()         # writes it once more
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from invarlock.documents.runs import DiskPressureDocument
from invarlock.errors import InvarLockError
from invarlock.jsonio import check_schema, write_json
from invarlock.moments import utc_now
from invarlock.packer.runs.run_directory import RunDirectory

SCHEMA = "disk_pressure_v1"
# Listing the few thousand files of a run takes milliseconds; writing a subject of a large model takes a minute.
INTERVAL_SECONDS = 15.0
BLOCK_BYTES = 512


@dataclass(frozen=True)
class DiskUsage:
    """The bytes that a run uses on disk; hard links are counted once, targets of symbolic links are not counted."""

    baselines_bytes: int
    subjects_bytes: int
    other_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return the bytes of the whole run directory."""
        return self.baselines_bytes + self.subjects_bytes + self.other_bytes


class DiskPressure:
    """Measures a run's disk usage periodically in a separate thread, and keeps the extremes."""

    def __init__(self, directory: RunDirectory, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._directory = directory
        self._interval_seconds = interval_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="disk pressure", daemon=True)
        self._lowest_free_bytes: int | None = None
        self._highest_held_bytes = 0

    def start(self) -> None:
        """Write the file, and start the thread that keeps it current."""
        self._measure()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after a last measurement; do nothing if it was not started."""
        if not self._thread.is_alive():
            return
        self._over.set()
        self._thread.join()
        self._measure()

    def _watch(self) -> None:
        while not self._over.wait(self._interval_seconds):
            self._measure()

    def _measure(self) -> None:
        # on a full disk, writing fails; the cases report this, and the next measurement may succeed
        with suppress(OSError, InvarLockError):
            write_json(self._directory.state / "disk_pressure.json", self._document())

    def _document(self) -> DiskPressureDocument:
        usage = shutil.disk_usage(self._directory.path)
        used = measure_disk_usage(self._directory.path)
        lowest = self._lowest_free_bytes
        self._lowest_free_bytes = usage.free if lowest is None else min(lowest, usage.free)
        self._highest_held_bytes = max(self._highest_held_bytes, used.total_bytes)
        document: DiskPressureDocument = {
            "schema": SCHEMA,
            "measured_at": utc_now(),
            "total_bytes": usage.total,
            "free_bytes": usage.free,
            "lowest_free_bytes": self._lowest_free_bytes,
            "held_bytes": used.total_bytes,
            "highest_held_bytes": self._highest_held_bytes,
            "held": {
                "baselines_bytes": used.baselines_bytes,
                "subjects_bytes": used.subjects_bytes,
                "other_bytes": used.other_bytes,
            },
        }
        check_schema(document, "disk_pressure", where="state/disk_pressure.json")
        return document


def measure_disk_usage(run: Path) -> DiskUsage:
    """Return a run's disk usage: baselines below ``models``, subjects below ``<model>/models``, and the rest."""
    sizes = {"baselines": 0, "subjects": 0, "other": 0}
    seen: set[tuple[int, int]] = set()
    # baselines come first, so that a subject's hard links to their files count as baselines
    for path, status in sorted(_files(run), key=lambda row: row[0][0] != "models"):
        key = (status.st_dev, status.st_ino)
        if key in seen:
            continue
        seen.add(key)
        kind = "baselines" if path[0] == "models" else "subjects" if path[1:2] == ("models",) else "other"
        sizes[kind] += status.st_blocks * BLOCK_BYTES
    return DiskUsage(sizes["baselines"], sizes["subjects"], sizes["other"])


def _files(run: Path) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
    for folder, _, names in os.walk(run):
        for name in names:
            path = Path(folder) / name
            try:
                status = path.lstat()
            except FileNotFoundError:
                # the file was removed in the meantime
                continue
            if not stat.S_ISLNK(status.st_mode):
                yield path.relative_to(run).parts, status
