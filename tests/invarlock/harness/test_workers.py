"""Workers that die: their case is run once more, on another."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
SMALL = {
    "INVARLOCK_PREVIEW_WINDOWS": "8",
    "INVARLOCK_FINAL_WINDOWS": "16",
    "OMP_NUM_THREADS": "1",
    "DRIFT_CALIBRATION_RUNS": "0",
}


def workers(controller: int) -> list[int]:
    """Return the processes that a controller started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == controller:
            found.append(int(folder.name))
    return sorted(found)


def test_a_case_whose_worker_is_killed_is_run_once_more_and_the_verdict_is_the_same(tmp_path: Path) -> None:
    ours = ("PACK_", "INVARLOCK_", "PYTEST_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-m", "pytest", "suites", "-k", "mistral", "-n", "2", "-p", "no:cacheprovider"]
    directory = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--output-dir", str(directory)],
        cwd=ROOT,
        env={**clean, **SMALL},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    # a worker is in the middle of a case as long as its subject is there
    while not list(directory.glob("*/models/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(workers(process.pid)[0], signal.SIGKILL)

    output, _ = process.communicate(timeout=300)

    assert process.returncode == 0, output
    assert "Verdict: PASS" in output
    report = json.loads((directory / "evidence_pack/metadata/pytest_report.json").read_bytes())
    assert report["summary"] == {"passed": 22, "total": 22, **selected(report)}
    assert not list(directory.glob("*/models/*"))
    done = subprocess.run(
        [sys.executable, "-m", "invarlock.packer", "verify", str(directory / "evidence_pack"), "--strict"], check=False
    )
    assert done.returncode == 0


def selected(report: dict[str, dict[str, int]]) -> dict[str, int]:
    return {key: value for key, value in report["summary"].items() if key in ("collected", "deselected")}
