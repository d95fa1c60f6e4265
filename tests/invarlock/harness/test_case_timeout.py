"""Cases that exceed ``--case-timeout``: in Python, in native code, and where signals have no effect."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import python

RunPytest = Callable[..., Any]
SELECT = ("-k", "mistral and (noop or inf_injection)")
# Hangs while a case is measured and holds its lease. PyTorch is imported before the first case begins.
HANG = """

import ctypes, time
from invarlock.harness.cases import case_runner as module

@pytest.fixture(autouse=True)
def hang(case, monkeypatch):
    if case.scenario.id in {scenarios!r}:
        monkeypatch.setattr(module, "compare", lambda *arguments: {hang})
"""
# It holds the GIL, so no Python code in this process runs again.
IN_C_WITH_THE_LOCK = "ctypes.PyDLL(None).pause()"
IN_PYTHON = "time.sleep(300)"


def add_hang(suites: Path, hang: str, *scenarios: str) -> None:
    with (suites / "conftest.py").open("a") as stream:
        stream.write(HANG.format(hang=hang, scenarios=scenarios))


def verdict(directory: Path) -> Any:
    return json.loads((directory / "reports/final_verdict.json").read_bytes())


def test_a_worker_that_hangs_in_native_code_is_replaced_and_its_case_is_not_run_again(
    run_pytest: RunPytest, own_suites: Path
) -> None:
    add_hang(own_suites, IN_C_WITH_THE_LOCK, "noop_control", "inf_injection")

    # there is one lease: if it were not released, the second case would wait for it instead of hanging
    ran = run_pytest(*SELECT, "-n", "1", "--case-timeout", "6s", suites=own_suites)

    assert ran.status == 1, ran.output
    assert ran.output.count("node down: Not properly terminated") == 2
    for case in ("mistral-tiny-noop_control-run1", "mistral-tiny-inf_injection-run1"):
        where = f"logs/{case}.hung.txt"
        assert f"exceeded --case-timeout (6 s); its worker is replaced; stack traces: {where}" in ran.output
        assert "case_runner.py" in (ran.directory / where).read_text()
    assert len(verdict(ran.directory)["missing"]["by_model"]["embedded/mistral-tiny"]) == 2


def test_without_workers_a_hang_is_interrupted_and_the_other_cases_go_on(
    run_pytest: RunPytest, own_suites: Path
) -> None:
    original = (own_suites / "conftest.py").read_text()
    add_hang(own_suites, IN_PYTHON, "inf_injection")

    ran = run_pytest(*SELECT, "--no-pack", PACK_CASE_TIMEOUT="20s", suites=own_suites)
    stopped = verdict(ran.directory)
    (own_suites / "conftest.py").write_text(original)
    resumed = run_pytest(*SELECT, "--resume", suites=own_suites)

    assert ran.status == 1, ran.output
    assert "Failed: exceeded --case-timeout (20 s)" in ran.output
    assert [(record["name"], record["passed"]) for record in stopped["records"]] == [("noop_control", True)]
    assert resumed.status == 0, resumed.output
    assert verdict(ran.directory)["verdict"] == "PASS"
    assert not list((ran.directory / "logs").glob("*.hung.txt"))


@pytest.mark.parametrize(
    ("library", "status", "last_word"),
    [
        ("CDLL", 2, "could not be interrupted; finished cases are kept, continue: --resume -n 1"),
        # it waits for the grace time of five seconds
        pytest.param("PyDLL", 1, "", marks=pytest.mark.slow),
    ],
)
def test_without_workers_what_cannot_be_interrupted_ends_the_process(
    library: str, status: int, last_word: str, tmp_path: Path
) -> None:
    # a thread that locks its own mutex again: unlike most blocking calls, a signal does not interrupt it
    script = (
        "import ctypes, pathlib, sys\n"
        "from invarlock.harness.stopping.case_clock import lone_alarms\n"
        "for alarm in lone_alarms(0.3):\n"
        "    alarm.start(pathlib.Path(sys.argv[1]))\n"
        f"c, mutex = ctypes.{library}(None), ctypes.create_string_buffer(64)\n"
        "c.pthread_mutex_lock(mutex)\n"
        "c.pthread_mutex_lock(mutex)\n"
    )
    began = time.monotonic()

    done = python("-c", script, tmp_path / "case.hung.txt", cwd=tmp_path, seconds=60)

    assert done.returncode == status, done.stderr
    assert last_word in done.stderr
    assert time.monotonic() - began > 0.6
