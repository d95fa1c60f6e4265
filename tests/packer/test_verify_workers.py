"""Large packs are verified in several processes, with the same result as in one, whatever is wrong with the pack."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.verify import reports, workers
from invarlock.packer.verify.options import VerifyOptions
from invarlock.packer.verify.result import VerifyResult
from invarlock.packer.verify.shared_values import SharedValues
from invarlock.packer.verify.verifying import verify_pack
from memory_files import MemoryFiles
from packs import BASELINE, FAULT, REPORT, SCENARIOS, STRESS, edit_json, pack_files

from invarlock.problems import Code

Change = Callable[[Path], object]


def flip(name: str) -> Change:
    def change(pack: Path) -> None:
        data = (pack / name).read_bytes()
        (pack / name).write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])

    return change


def remove(name: str) -> Change:
    return lambda pack: (pack / name).unlink()


def resealed(name: str, edit: Callable[[Any], object]) -> Change:
    return lambda pack: edit_json(pack / name, edit)


def higher_ratio(report: Any) -> None:
    report["primary_metric"]["ratio_vs_baseline"] *= 1.01


# The change to a pack, and whether the pack is resealed.
CHANGES: dict[str, tuple[Change, bool]] = {
    "honest": (lambda pack: None, False),
    "report": (flip(REPORT), False),
    "page": (flip(STRESS.replace("report.json", "html")), False),
    "baseline": (flip(BASELINE), False),
    "plan": (flip(SCENARIOS), False),
    "no report": (remove(STRESS), False),
    "no baseline": (remove(BASELINE), False),
    "no sidecar": (remove(FAULT.replace("evaluation.report", "runtime.manifest")), False),
    "number": (resealed(REPORT, higher_ratio), True),
    "baseline's number": (resealed(BASELINE, lambda document: document["draws"][0].update(run=7)), True),
    "no JSON": (lambda pack: (pack / REPORT).write_text("{"), True),
}


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes every pack count as large, so that only two worker processes examine reports."""

    def not_here(*_: object) -> None:
        pytest.fail("a report was examined by the verifier itself")

    def change() -> None:
        monkeypatch.setattr(workers, "MIN_REPORTS", 1)
        monkeypatch.setattr(workers, "BATCH_REPORTS", 2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(reports, "examine_report", not_here)

    return change


def verified(pack: Path, progress: list[int] | None = None) -> VerifyResult:
    done = progress if progress is not None else []
    return verify_pack(pack, VerifyOptions(strict=True), lambda total: done.append)


@pytest.mark.parametrize("name", CHANGES)
def test_several_processes_find_what_one_finds(
    name: str, pack: Path, reseal: Callable[[Path], None], in_processes: Callable[[], None]
) -> None:
    change, sealed_again = CHANGES[name]
    change(pack)
    if sealed_again:
        reseal(pack)
    alone: list[int] = []
    together: list[int] = []
    expected = verified(pack, alone)

    in_processes()
    found = verified(pack, together)

    assert asdict(found) == asdict(expected)
    assert (found.code == 0) == (name == "honest")
    assert sum(together) == sum(alone)


def test_a_process_that_does_not_start_or_ends_early_costs_time_only(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = verified(pack)
    monkeypatch.setattr(workers, "MIN_REPORTS", 1)
    monkeypatch.setattr(workers, "BATCH_REPORTS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    for executable in ("/no/such/python", "/bin/false"):
        monkeypatch.setattr("sys.executable", executable)
        assert asdict(verified(pack)) == asdict(expected)


def test_a_pack_in_memory_starts_no_process(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BATCH_REPORTS", 1)
    monkeypatch.setattr(workers, "MIN_REPORTS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    assert (
        workers.examine_in_processes(MemoryFiles(pack_files(pack)), [(BASELINE, [REPORT, STRESS])], SharedValues())
        == {}
    )


def test_a_process_whose_orders_end_ends_quietly(pack: Path) -> None:
    order = pickle.dumps((pack, {}))
    command = [sys.executable, "-c", "from invarlock.packer.verify.workers import serve; serve()"]

    done = subprocess.run(command, input=order, capture_output=True, check=False, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_file_that_another_process_read_in_another_state_has_changed(pack: Path) -> None:
    from invarlock.packer.format.contents import FilesRead, SealedFiles
    from invarlock.packer.format.pack_folder import open_pack

    with open_pack(pack) as folder:
        digest = "0" * 64
        files = SealedFiles(folder, {REPORT: digest})
        files.adopt(FilesRead({REPORT: b"1" * 32}, ()))
        assert files.problems == []
        files.adopt(FilesRead({REPORT: b"2" * 32}, ()))

        assert [problem.code for problem in files.finish()] == [Code.FILE_CHANGED]


@pytest.mark.parametrize(("cores", "least_reports"), [({0, 1}, workers.MIN_REPORTS), ({0}, 1)])
def test_a_small_pack_or_a_single_core_starts_no_process(
    cores: set[int], least_reports: int, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_collect", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(workers, "MIN_REPORTS", least_reports)
    monkeypatch.setattr(workers, "BATCH_REPORTS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)

    assert verified(pack).code == 0
