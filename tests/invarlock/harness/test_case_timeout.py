"""Cases that take longer than ``--case-timeout``: in Python, in native code, and where no signal arrives."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RunPytest = Callable[..., Any]
SELECT = ("-k", "mistral and (noop or inf_injection)")
# more than any of these cases takes between two waits, on a machine that has much else to do
TIMEOUT = "30s"
# PyTorch is imported before the first case begins
HANG = """

import ctypes, time
from invarlock.harness import bench as module

@pytest.fixture(autouse=True)
def hang(case, monkeypatch):
    if case.scenario.id == "inf_injection":
        monkeypatch.setattr(module, "make_subject", lambda *arguments: {hang})
"""
# it holds Python's lock, so nothing of Python runs in this process again
IN_C_WITH_THE_LOCK = "ctypes.PyDLL(None).pause()"
IN_PYTHON = "time.sleep(300)"


def add_hang(suites: Path, hang: str) -> None:
    with (suites / "conftest.py").open("a") as stream:
        stream.write(HANG.format(hang=hang))


def verdict(directory: Path) -> Any:
    return json.loads((directory / "reports/final_verdict.json").read_bytes())


def test_a_worker_that_hangs_in_native_code_is_replaced_and_its_case_is_not_run_again(
    run_pytest: RunPytest, own_suites: Path
) -> None:
    add_hang(own_suites, IN_C_WITH_THE_LOCK)

    # one worker has the only lease: were it not free again, nothing would go on
    ran = run_pytest(*SELECT, "-n", "1", "--case-timeout", TIMEOUT, suites=own_suites)

    where = "logs/mistral-tiny-inf_injection-run1.hung.txt"
    assert ran.status == 1, ran.output
    assert (
        f"it took longer than --case-timeout allows (30 s); its worker is replaced; where it was: {where}" in ran.output
    )
    assert ran.output.count("replacing crashed worker") == 1
    assert "_evaluate_alone" in (ran.directory / where).read_text()
    assert [record["passed"] for record in verdict(ran.directory)["records"]] == [True]
    assert [path.name for path in (ran.directory / "logs").glob("*.hung.txt")] == [Path(where).name]


def test_without_workers_a_hang_is_interrupted_and_the_other_cases_go_on(
    run_pytest: RunPytest, own_suites: Path
) -> None:
    original = (own_suites / "conftest.py").read_text()
    add_hang(own_suites, IN_PYTHON)

    ran = run_pytest(*SELECT, PACK_CASE_TIMEOUT=TIMEOUT, suites=own_suites)
    (own_suites / "conftest.py").write_text(original)
    resumed = run_pytest(*SELECT, "--resume", "--pack-dir", str(ran.directory / "pack"), suites=own_suites)

    assert ran.status == 1, ran.output
    assert "Failed: it took longer than --case-timeout allows (30 s)" in ran.output
    assert verdict(ran.directory)["verdict"] == "PASS", resumed.output
    assert resumed.status == 0, resumed.output
    assert not list((ran.directory / "logs").glob("*.hung.txt"))


@pytest.mark.parametrize(
    ("library", "status", "last_word"),
    [
        ("CDLL", 2, "could not be interrupted; what is done is kept, go on with workers: --resume -n 1"),
        ("PyDLL", 1, ""),
    ],
)
def test_without_workers_what_cannot_be_interrupted_ends_the_process(
    library: str, status: int, last_word: str, tmp_path: Path
) -> None:
    # a lock that its holder locks again: unlike most that blocks, no signal ends it
    script = (
        "import ctypes, pathlib, sys\n"
        "from invarlock.harness.case_clock import lone_alarms\n"
        "for alarm in lone_alarms(0.3):\n"
        "    alarm.start(pathlib.Path(sys.argv[1]))\n"
        f"c, mutex = ctypes.{library}(None), ctypes.create_string_buffer(64)\n"
        "c.pthread_mutex_lock(mutex)\n"
        "c.pthread_mutex_lock(mutex)\n"
    )
    began = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "case.hung.txt")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == status, done.stderr
    assert last_word in done.stderr
    assert time.monotonic() - began > 0.6
