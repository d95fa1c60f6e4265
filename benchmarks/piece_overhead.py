"""Overhead of a fleet piece compared with plain pytest of the same cases, with Ray on this machine.

    python benchmarks/piece_overhead.py [--times 3]

Both measure the baseline and the preset. CPU time is that of all processes of the session. On a busy machine their
wall-clock times are not comparable.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray

from invarlock.harness.fleet.agreement import node_facts
from invarlock.harness.fleet.archives import Archive, pack_files
from invarlock.harness.fleet.joining import HANDED_STATE
from invarlock.harness.fleet.node import Part, WorkOrder, run_piece
from invarlock.harness.planning.piece_file import PieceFile

ROOT = Path(__file__).parents[1]
CASES = ("mistral-tiny-noop_control-run1", "mistral-tiny-nan_injection-run1")
SELECT = "mistral and (noop_control or nan_injection)"
PLUGINS = ("-p", "invarlock.harness.plugin", "-p", "no:cacheprovider")


def run_plainly(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", *PLUGINS, "-q", "suites", "-k", SELECT, "--output-dir", str(folder)]
    environment = {**os.environ, "PACK_SKIP_HTML": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def order() -> WorkOrder:
    arguments = (*PLUGINS, "-q", "suites", "-k", SELECT)
    agreed = node_facts(ROOT / "suites", "throughput", gpus=False).agreed()
    return WorkOrder(1, arguments, str(ROOT), {}, str(ROOT / "suites"), "throughput", PieceFile(CASES, CASES), agreed)


def on_ray(piece: WorkOrder, state: Archive) -> tuple[Part, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    part = run_piece(piece, state)
    own = resource.getrusage(resource.RUSAGE_SELF)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = own.ru_utime + own.ru_stime + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return part, spent


def wait_for(task: Any, piece: WorkOrder, state: Archive) -> Any:
    """Run a Ray task on a piece and return its result."""
    return ray.get(task.remote(piece, state))


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a function's result, its wall-clock seconds, and the CPU seconds of the child processes that ended."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result, time.monotonic() - began, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    task = ray.remote(max_calls=1)(on_ray)
    found: dict[str, list[tuple[float, float]]] = {"plain pytest": [], "piece on Ray": []}
    for number in range(times):
        with tempfile.TemporaryDirectory() as name:
            run = Path(name) / "run"
            _, seconds, spent = timed(partial(run_plainly, run))
            found["plain pytest"].append((seconds, spent))
            state = pack_files(run, [run / "state" / one for one in HANDED_STATE])
            piece = order()
            (part, own), seconds, _ = timed(partial(wait_for, task, piece, state))
            assert part.archive is not None, part
            found["piece on Ray"].append((seconds, own))
        print(f"round {number + 1} of {times}", flush=True)
    for what, rows in found.items():
        clock, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{what:14} {clock:7.1f} s on the clock, {cpu:6.1f} s of processors (median of {times})")


if __name__ == "__main__":
    main()
