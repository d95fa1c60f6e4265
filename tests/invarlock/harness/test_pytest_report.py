from pathlib import Path
from typing import Any

from invarlock.harness.ending.pytest_report import reduce_pytest_report


def message(longrepr: str) -> str:
    test: dict[str, Any] = {
        "nodeid": "n[a-b-run1]",
        "outcome": "failed",
        "call": {"duration": 1.0, "outcome": "failed"},
    }
    test["call"] = {**test["call"], "longrepr": longrepr}
    report = reduce_pytest_report({"exitcode": 1, "tests": [test]}, Path("/data/jane/run"))
    text: str = report["tests"][0]["message"]
    return text


def test_no_path_of_the_machine_stays_in_a_message() -> None:
    assert message("/data/jane/run/state/x.json: no such file") == "state/x.json: no such file"
    assert message("cannot read /home/jane/models/base/config.json now") == "cannot read config.json now"
    assert message("[gw3] linux -- Python 3.11.7 /home/jane/bin/python\nworker 'gw3' crashed") == "worker 'gw3' crashed"


def test_a_long_message_is_cut_and_a_ratio_is_no_path() -> None:
    assert message("gate a/b: 1/2 and/or") == "gate a/b: 1/2 and/or"
    assert len(message("x" * 2000)) == 500


def test_seconds_of_all_stages_are_added() -> None:
    stage = {"duration": 0.5, "outcome": "passed"}
    test: dict[str, Any] = {"nodeid": "n", "outcome": "passed", "setup": stage, "call": stage, "teardown": stage}

    report = reduce_pytest_report({"exitcode": 0, "summary": {"passed": 1}, "tests": [test]}, Path("/run"))

    assert report == {
        "exitcode": 0,
        "summary": {"passed": 1, "total": 1},
        "tests": [{"nodeid": "n", "outcome": "passed", "seconds": 1.5, "message": ""}],
    }


def test_a_case_whose_worker_died_counts_as_it_ended_on_the_second() -> None:
    lost, ended = {"duration": 0.0, "outcome": "rerun"}, {"duration": 0.5, "outcome": "passed"}
    broken = {"duration": 0.5, "outcome": "failed", "longrepr": "gate"}
    tests = [
        {"nodeid": "a", "outcome": "rerun", "???": lost, "setup": ended, "call": ended},
        {"nodeid": "b", "outcome": "failed", "???": lost, "setup": ended, "call": broken},
        {"nodeid": "c", "outcome": "rerun", "???": lost},
    ]

    report = reduce_pytest_report({"exitcode": 1, "summary": {"rerun": 3}, "tests": tests}, Path("/run"))

    assert [test["outcome"] for test in report["tests"]] == ["passed", "failed", "failed"]
    assert report["summary"] == {"failed": 2, "passed": 1, "total": 3}
