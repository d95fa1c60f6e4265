"""A process that leases devices like a worker: ``lease_worker.py FOLDER POOL LOG WORKER NEED_GB HOLD_SECONDS TIMES``.

It writes a line when it takes a lease and another when it gives the lease back.
"""

import sys
import time
from pathlib import Path

from invarlock.harness.devices.inventory import GB, Pool
from invarlock.harness.devices.leases import Leases


def main(folder: str, pool: str, log: str, worker: str, need: str, hold: str, times: str) -> None:
    leases = Leases(Path(folder), Pool.read(Path(pool)), int(worker))
    for _ in range(int(times)):
        lease = leases.take(int(float(need) * GB))
        names = ",".join(device.id for device in lease.devices)
        with Path(log).open("a") as stream:
            stream.write(f"take {worker} {names} {time.monotonic_ns()}\n")
        time.sleep(float(hold))
        with Path(log).open("a") as stream:
            stream.write(f"give {worker} {names} {time.monotonic_ns()}\n")
        leases.give_back()


if __name__ == "__main__":
    main(*sys.argv[1:])
