"""Killed runs: do they end with the same results as an undisturbed run, and leave nothing behind?

    python benchmarks/reliability.py --smoke 20 --small 50 --seed 1

Each round starts a run with two workers and kills a worker or the controller (SIGKILL) at a random moment within the
duration of an undisturbed run. If the run does not finish by itself, it is resumed with ``--resume``. Then the reports
and the verdict must equal those of the undisturbed run except for times, and no process, held lock, lease, ticket,
subject, staging folder or half-written file may be left. ``--smoke`` rounds run the whole smoke suite with its presets;
``--small`` rounds kill the controller of a run of four cases on one model.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from killed_runs import contents, group, in_group, leftovers

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Kind:
    """What a round runs, and which processes it may kill."""

    name: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str]
    victims: tuple[str, ...]


SMOKE = Kind("smoke", (), {}, ("worker", "controller"))
SMALL = Kind(
    "small",
    ("-k", "mistral and (noop or nan_injection or prune_clean or ve_mlp)"),
    {"INVARLOCK_PREVIEW_WINDOWS": "8", "INVARLOCK_FINAL_WINDOWS": "16", "DRIFT_CALIBRATION_RUNS": "0"},
    ("controller",),
)


def start(kind: Kind, directory: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start a run in its own process group, and append its output to a log next to its directory."""
    ours = ("PACK_", "INVARLOCK_", "PYTEST_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-m", "pytest", "suites", *kind.arguments, "-n", "2", "-p", "no:cacheprovider"]
    command += ["--determinism", "strict", "--output-dir", str(directory), *more]
    with directory.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean, "OMP_NUM_THREADS": "1", **kind.variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def undisturbed(kind: Kind, folder: Path) -> tuple[dict[str, Any], float]:
    """Return the results of an undisturbed run, and its seconds from the moment that its settings are written."""
    directory = folder / f"{kind.name}_undisturbed"
    process = start(kind, directory)
    wait_for(directory / "state/settings.json")
    began = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed: {directory.with_suffix('.log').read_text()[-2000:]}")
    return contents(directory), time.monotonic() - began


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"{path}: not there after five minutes")
        time.sleep(POLL_SECONDS)


def kill(process: subprocess.Popen[bytes], who: str, chance: random.Random) -> str | None:
    """Kill one of a run's processes and return its role, or None if no such process was left."""
    if who == "controller":
        if process.poll() is not None:
            return None
        process.kill()
        return "controller"
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if in_group(entry, process.pid)]
    workers = sorted(pid for pid in pids if pid != process.pid)
    if not workers:
        return None
    os.kill(chance.choice(workers), signal.SIGKILL)
    return "worker"


def play(
    kind: Kind, number: int, folder: Path, seconds: float, expected: dict[str, Any], seed: int
) -> tuple[bool, bool]:
    """Run a round and print its row; return whether a process was killed, and whether all checks passed."""
    chance = random.Random(f"{seed}/{kind.name}/{number}")
    directory = folder / f"{kind.name}_{number}"
    process = start(kind, directory)
    wait_for(directory / "state/settings.json")
    moment = chance.uniform(0.0, seconds)
    time.sleep(moment)
    reports = len(list(directory.glob("*/reports/**/runtime.manifest.json")))
    killed = kill(process, chance.choice(kind.victims), chance)
    process.wait()
    went_on = "by itself"
    survivors = group(process.pid)
    if not (directory / "evidence_pack").exists():
        resumed = start(kind, directory, "--resume")
        resumed.wait()
        survivors += group(resumed.pid)
        went_on = f"--resume, {resumed.returncode}"
    same = (directory / "evidence_pack").exists() and contents(directory) == expected
    left = leftovers(directory)
    print(
        f"{kind.name:6} {number:3d}  {killed or 'nobody':10} {moment:6.1f} s  {reports:3d} reports  {went_on:12}"
        f"  {'the same' if same else 'ANOTHER'}  {len(survivors)} processes, {len(left)} files left",
        flush=True,
    )
    return killed is not None, same and not survivors and not left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", type=int, default=20, help="rounds of the whole smoke suite with a kill")
    parser.add_argument("--small", type=int, default=50, help="rounds of four cases, whose controller is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the victims")
    given = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, rounds in ((SMALL, given.small), (SMOKE, given.smoke)):
            if not rounds:
                continue
            expected, seconds = undisturbed(kind, folder)
            print(f"{kind.name}: {seconds:.1f} s undisturbed, verdict {expected['verdict']['verdict']}", flush=True)
            ended: list[bool] = []
            number = kills = 0
            while kills < rounds:
                # a run may end before the random moment, and then no process is killed
                number += 1
                hit, well = play(kind, number, folder, seconds, expected, given.seed)
                kills += hit
                ended.append(well)
            print(f"{kind.name}: {sum(ended)} of {number} rounds ended as they must, {kills} with a kill", flush=True)
            good = good and all(ended)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
