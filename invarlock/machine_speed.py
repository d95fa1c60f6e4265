"""Measuring, in a fraction of a second, how fast this machine multiplies matrices and writes files.

Example::

    speed = measure_speed(Path("out"))
    speed.flops, speed.write        # 6.6e10 operations a second, 9e8 bytes a second

Estimates before a run are based on these two speeds; other programs that use the machine at that moment lower them.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SIDE = 512
SECONDS = 0.1
WRITTEN_BYTES = 16_000_000
# The speed of a hard disk, assumed if nothing can be written; the run will then refuse the folder.
SLOW_WRITE = 1e8


@dataclass(frozen=True)
class MachineSpeed:
    """Floating-point operations per second, and bytes written to disk per second."""

    flops: float
    write: float


def measure_speed(folder: Path) -> MachineSpeed:
    """Return the speed of this machine and of a folder's disk; the folder may not exist yet."""
    return MachineSpeed(_matrix_products(), _writing(folder))


def _matrix_products() -> float:
    # imported here: collecting cases and most estimates do not need it
    import numpy as np

    matrix = np.full((SIDE, SIDE), 0.5, dtype=np.float32)
    # the first product starts the threads
    matrix @ matrix
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        matrix @ matrix
        products += 1
    return 2 * SIDE**3 * products / (time.perf_counter() - started)


def _writing(folder: Path) -> float:
    above = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir()), None)
    data = bytes(WRITTEN_BYTES)
    with suppress(OSError), tempfile.TemporaryFile(dir=above) as stream:
        started = time.perf_counter()
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
        return WRITTEN_BYTES / (time.perf_counter() - started)
    return SLOW_WRITE
