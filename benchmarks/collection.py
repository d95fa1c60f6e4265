"""Cost of collecting the ``full`` suite compared with as many empty cases, and controller memory for each case.

    python benchmarks/collection.py
    python benchmarks/collection.py --cases 10000

Times are CPU seconds of the process, best of ``--times``: on a shared machine they are more reliable than wall-clock
time. The memory is the peak of the controller process in runs of cases that measure nothing, on two workers. The
sizes of the Python objects at its end are given separately for InvarLock and for other packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SUITES = Path(__file__).parents[1] / "suites"
# what `pip install 'invarlock[suite]'` installs, and nothing else that happens to be installed
PLUGINS = ("-p", "xdist.plugin", "-p", "pytest_jsonreport.plugin", "-p", "no:cacheprovider")
FEW = 100
RUNS = 100
PEAK = (
    "import resource\n"
    "pytest_plugins = ['invarlock.harness.plugin']\n"
    "def pytest_unconfigure(config):\n"
    "    if not hasattr(config, 'workerinput'):\n"
    "        print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
)


KEPT = (
    "import gc, tracemalloc\n"
    "import invarlock.packer\n"
    "pytest_plugins = ['invarlock.harness.plugin']\n"
    "def pytest_unconfigure(config):\n"
    "    if not hasattr(config, 'workerinput'):\n"
    "        gc.collect()\n"
    "        rows = tracemalloc.take_snapshot().statistics('filename')\n"
    "        folders = tuple(f'{folder}/' for one in (invarlock, invarlock.packer) for folder in one.__path__)\n"
    "        sizes = [0, 0]\n"
    "        for row in rows:\n"
    "            sizes[row.traceback[0].filename.startswith(folders)] += row.size\n"
    "        print('kept', *sizes)\n"
)


def run_pytest(folder: Path, *arguments: str, **variables: str) -> tuple[str, float]:
    """Run pytest in a folder and return its output and its CPU seconds."""
    command = [sys.executable, "-m", "pytest", *PLUGINS, *arguments]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    before = os.times()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout + done.stderr, seconds


def measure_collection(times: int) -> None:
    """Print the CPU seconds of collecting the full suite, and of collecting the same number of empty cases."""
    arguments = ("--collect-only", "-q", "-m", "full")
    output, _ = run_pytest(SUITES.parent, "suites", *arguments)
    count = output.count("::test_scenario[")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_empty.py").write_text(
            f"import pytest\n@pytest.mark.parametrize('number', range({count}))\ndef test_empty(number): pass\n"
        )
        ours, empty = [], []
        for _ in range(times):
            ours.append(run_pytest(SUITES.parent, "suites", *arguments)[1])
            empty.append(run_pytest(folder, "--collect-only", "-q")[1])
    print(f"collecting {count} cases of the full suite: {min(ours):.2f} s of CPU")
    print(f"collecting {count} empty cases: {min(empty):.2f} s of CPU, ratio {min(ours) / min(empty):.2f}")


def peak_bytes(cases: int) -> int:
    """Return the controller's peak memory with this many cases (a multiple of 100) that measure nothing."""
    return int(run_empty_cases(cases, PEAK).rpartition("peak ")[2].split()[0]) * 1024


def kept_bytes(cases: int) -> tuple[int, int]:
    """Return the size of the Python objects at the controller's end: those made by InvarLock, and by other packages."""
    others, ours = run_empty_cases(cases, KEPT, PYTHONTRACEMALLOC="1").rpartition("kept ")[2].split()[:2]
    return int(ours), int(others)


def run_empty_cases(cases: int, conftest: str, **variables: str) -> str:
    """Return the output of a run with this many cases (a multiple of 100) that measure nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "suites"
        folder.mkdir()
        for path in SUITES.iterdir():
            if path.suffix != ".py" and path.name not in ("scenarios.json", "__pycache__"):
                (folder / path.name).symlink_to(path)
        document = json.loads((SUITES / "scenarios.json").read_text("utf-8"))
        row = next(row for row in document["scenarios"] if row["id"] == "noop_control")
        document["scenarios"] = [
            {**row, "id": f"noop_{number}", "suites": ["smoke"]} for number in range(cases // RUNS)
        ]
        (folder / "scenarios.json").write_text(json.dumps(document))
        (folder / "test_nothing.py").write_text("def test_nothing(case): pass\n")
        (Path(name) / "conftest.py").write_text(conftest)
        select = ("-q", "-n", "2", "-k", "mistral", "--no-pack", "--output-dir", f"{name}/run")
        variables |= {"CLEAN_EDIT_RUNS": str(RUNS), "DRIFT_CALIBRATION_RUNS": "0"}
        output, _ = run_pytest(Path(name), "suites", *select, **variables)
    if f"{cases} passed" not in output:
        raise SystemExit(output[-2000:])
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description="Collecting, and a controller's memory")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--cases", type=int, default=0, help="measure a controller's memory over so many cases too")
    options = parser.parse_args()
    measure_collection(options.times)
    if options.cases:
        few, many = peak_bytes(FEW), peak_bytes(options.cases)
        print(f"controller after {FEW} cases: {few / 1e6:.0f} MB; after {options.cases}: {many / 1e6:.0f} MB")
        first, last = kept_bytes(FEW), kept_bytes(options.cases)
        ours, others = ((after - before) / (options.cases - FEW) for before, after in zip(first, last, strict=True))
        print(f"kept for each case: {ours:.0f} bytes by InvarLock, {others:.0f} by pytest and its plugins")


if __name__ == "__main__":
    main()
