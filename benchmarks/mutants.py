"""Which mutants of the modules that make decisions are detected by the tests closest to them?

    tox -e mutants                                   # every mutant: many hours
    tox -e mutants -- --sample 15 --seed 1           # fifteen of each module
    tox -e mutants -- packer/verify/verifying.py --jobs 2      # all of one

Each mutant is written into a copy of the checkout, where the module's tests run until one fails. A mutant is killed
when a test fails or when the tests exceed the time limit of three times their usual duration plus 20 seconds. Runs that
tests share are made once, by the unchanged code.

Mutants are made by cosmic-ray's operators, but run here: cosmic-ray's own runner changes the checkout in place, has one
test command for all modules and cannot draw samples. mutmut 3 finds modules by their path, but `packer` and `contracts`
are imported under names that differ from their paths.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue

from mutated_modules import MODULES
from mutation import Mutant, sample_mutants

from invarlock.jsonio import write_json
from invarlock.runtime.provenance import MARKER_NAME, source_repository

ROOT = Path(__file__).parents[1]
NOT_COPIED = (".git", ".tox", ".venv", "build", "dist", "runs", "__pycache__", ".*_cache", "*.egg-info", ".hypothesis")
PYTEST = ("-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=no")
# These tests run for every module. They check that its values are frozen.
OF_EVERY_MODULE = ("tests/test_values.py",)
# A mutant's tests take about as long as without it, unless they wait for an event that never occurs.
LIMIT_FACTOR, LIMIT_SECONDS = 3, 20


@dataclass(frozen=True)
class Outcome:
    """The result for a mutant: ``killed`` by a test, ``time`` (limit exceeded), or ``survived``."""

    module: str
    line: int
    kind: str
    became: str
    change: str
    seconds: float


class Copy:
    """A copy of the checkout in which one mutant at a time is tested."""

    def __init__(self, folder: Path, runs: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
        # The copy has no git repository. Without this file, which names its source, no run would start in it.
        write_json(folder / MARKER_NAME, source_repository(ROOT))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PACK_", "INVARLOCK_"))}
        self._times = count(int(time.time()) + 3600)
        self._environment = {
            **kept,
            "PYTHONPATH": str(folder),
            "TESTS_KEEP_RUNS_IN": str(runs),
            "OMP_NUM_THREADS": "1",
        }
        where = self._python("-c", "import invarlock; print(invarlock.__file__)").stdout.strip()
        if not Path(where).is_relative_to(folder):
            raise SystemExit(f"tests import invarlock from {where}, not from the copy in {folder}")

    def passes(self, tests: Sequence[str], limit_seconds: float | None = None) -> bool | None:
        """Return whether the tests pass, or None if they exceed the time limit."""
        try:
            return self._python(*PYTEST, *OF_EVERY_MODULE, *tests, limit_seconds=limit_seconds).returncode == 0
        except subprocess.TimeoutExpired:
            return None

    def test(self, module: str, mutant: Mutant, limit_seconds: float) -> Outcome:
        """Test a mutant and restore the module."""
        path = self.folder / module
        original = path.read_text()
        started = time.monotonic()
        self._write(path, mutant.source)
        try:
            passed = self.passes(MODULES[module], limit_seconds)
        finally:
            self._write(path, original)
        became = "time" if passed is None else "survived" if passed else "killed"
        seconds = round(time.monotonic() - started, 1)
        return Outcome(module, mutant.line, mutant.kind, became, change(original, mutant.source), seconds)

    def _write(self, path: Path, source: str) -> None:
        path.write_text(source)
        # Python decides whether bytecode is current by the source's mtime (in seconds) and size, which can be the same
        # for two mutants in a row. So each write has a new time.
        moment = next(self._times)
        os.utime(path, (moment, moment))

    def _python(self, *arguments: str, limit_seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit_seconds)
            finally:
                if process.returncode is None:
                    # time limit exceeded, or interrupted: kill all processes that the tests started
                    os.killpg(process.pid, 9)
        return subprocess.CompletedProcess(command, process.returncode, output)


def change(before: str, after: str) -> str:
    """Return the lines that differ, joined into one line."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return "  ".join(" ".join(line.split()) for line in lines if line[:2] in ("- ", "+ "))


def run_module(module: str, mutants: Sequence[Mutant], copies: SimpleQueue[Copy], jobs: int) -> list[Outcome] | None:
    """Return the results for the mutants of a module, or None if its tests fail without a mutation."""
    copy = copies.get()
    try:
        # the first pass makes the runs that tests share, the second measures the time
        for _ in range(2):
            started = time.monotonic()
            if not copy.passes(MODULES[module]):
                return None
        limit = LIMIT_FACTOR * (time.monotonic() - started) + LIMIT_SECONDS
    finally:
        copies.put(copy)

    def test(mutant: Mutant) -> Outcome:
        own = copies.get()
        try:
            return own.test(module, mutant, limit)
        finally:
            copies.put(own)

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(test, mutants))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="all that decide something, when none is named")
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of each module; all when left out")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants are tested side by side")
    parser.add_argument("--runs", type=Path, help="a folder that keeps the runs which tests share, for this code alone")
    parser.add_argument("--out", type=Path, help="a file that takes a line of JSON for each mutant")
    parser.add_argument("--fail-under", type=float, default=0.0, metavar="PERCENT", help="exit 1 when fewer are killed")
    options = parser.parse_args()
    unknown = sorted(set(options.modules) - set(MODULES))
    if unknown:
        parser.error(f"{unknown[0]}: not among the modules that have tests here: {', '.join(MODULES)}")
    outcomes: list[Outcome] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = (options.runs or Path(folder) / "runs").absolute()
        runs.mkdir(parents=True, exist_ok=True)
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(options.jobs):
            copies.put(Copy(Path(folder) / f"copy_{number}", runs))
        print(f"{'module':38} {'mutants':>8} {'killed':>8} {'time':>6} {'survived':>9}", flush=True)
        for module in options.modules or MODULES:
            mutants = sample_mutants((ROOT / module).read_text(), options.sample, options.seed)
            found = run_module(module, mutants, copies, options.jobs)
            if found is None:
                print(f"{module:38} its tests fail without any mutant", flush=True)
                broken.append(module)
                continue
            outcomes += found
            print_module(module, found)
            if options.out is not None:
                with options.out.open("a") as stream:
                    stream.writelines(f"{json.dumps(asdict(outcome))}\n" for outcome in found)
    noticed = sum(outcome.became != "survived" for outcome in outcomes)
    share = 100.0 * noticed / max(1, len(outcomes))
    print(f"{noticed} of {len(outcomes)} mutants killed: {share:.1f} %")
    sys.exit(bool(broken) or share < options.fail_under)


def print_module(module: str, found: Sequence[Outcome]) -> None:
    counts = {became: sum(outcome.became == became for outcome in found) for became in ("killed", "time", "survived")}
    print(f"{module:38} {len(found):8} {counts['killed']:8} {counts['time']:6} {counts['survived']:9}")
    for outcome in found:
        if outcome.became == "survived":
            print(f"    {module}:{outcome.line} {outcome.kind}: {outcome.change}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
