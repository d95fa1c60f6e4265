"""Reports of a large pack are examined in several processes: what is found is the same, and nothing is left running."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer import report_pool
from packs import BASELINE, FAULT, REPORT, STRESS, edit_json, messages, strict

from invarlock.errors import IntegrityError

Reseal = Callable[[Path], None]
# Verifies a pack with workers however small it is, on however few cores.
POOLED = """
import resource, re, sys
from pathlib import Path
from invarlock.packer import cli, report_pool
report_pool.POOL_FROM_BYTES, report_pool.REPORTS_A_BATCH = int(sys.argv[2]), 1
report_pool._cores = lambda: 3
code = cli.main(["verify", sys.argv[1], "--strict"])
own = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print("peak", own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Workers for every pack; the test is told which were started, and none of them may be left."""
    started: list[subprocess.Popen[bytes]] = []
    start = report_pool._start

    def remember(pool: report_pool.ReportPool) -> None:
        start(pool)
        started.append(list(pool.workers.values())[-1])

    monkeypatch.setattr(report_pool, "POOL_FROM_BYTES", 0)
    monkeypatch.setattr(report_pool, "REPORTS_A_BATCH", 1)
    monkeypatch.setattr(report_pool, "_cores", lambda: 2)
    monkeypatch.setattr(report_pool, "_start", remember)
    yield started
    assert len(started) % 2 == 0
    assert all(process.returncode is not None for process in started)


def test_workers_find_what_one_process_finds(pack: Path, reseal: Reseal, pooled: list[Any]) -> None:
    honest = strict(pack).document()
    edit_json(pack / STRESS, lambda report: report["primary_metric"].update(ratio_vs_baseline=1.0))
    edit_json(pack / FAULT, lambda report: report["meta"].update(model_id="another/model"))
    edit_json(pack / REPORT.replace("evaluation.report", "edit_metadata"), lambda doc: doc.update(edit_type="other"))
    (pack / REPORT.replace("evaluation.report", "evaluate_timing")).unlink()
    reseal(pack)
    (pack / BASELINE).with_name("stray.json").write_bytes(b"{}")
    wrong = strict(pack).document()
    assert len(pooled) == 4

    with pytest.MonkeyPatch.context() as alone:
        alone.setattr(report_pool, "POOL_FROM_BYTES", 1 << 40)
        assert strict(pack).document() == wrong
    assert honest["ok"]
    assert not wrong["ok"]
    assert len(pooled) == 4


def test_workers_tell_of_reports_that_do_not_follow_in_the_order_of_their_paths(
    pack: Path, reseal: Reseal, pooled: list[Any]
) -> None:
    for path in (REPORT, STRESS, FAULT):
        edit_json(pack / path, lambda report: report["assurance"].update(mode="none"))
    reseal(pack)

    result = strict(pack)

    assert result.code == 7
    assert [error["where"] for error in result.errors][:3] == sorted((REPORT, STRESS, FAULT))


@pytest.mark.parametrize("path", [REPORT, REPORT.replace("evaluation.report", "runtime.manifest")])
def test_workers_hash_the_bytes_that_they_parse(pack: Path, path: str, pooled: list[Any]) -> None:
    # the same document in other bytes: only the digest tells
    (pack / path).write_bytes((pack / path).read_bytes() + b"\n")

    result = strict(pack)

    assert result.code == 6
    assert messages(result) == f"{path}: its bytes are not those of its checksum"


def test_workers_follow_no_link(pack: Path, tmp_path: Path, pooled: list[Any]) -> None:
    (pack / REPORT).rename(tmp_path / "elsewhere")
    (pack / REPORT).symlink_to(tmp_path / "elsewhere")

    result = strict(pack)

    assert result.code == 6
    assert f"{REPORT}: a link, device or pipe" in messages(result)


def test_a_file_that_changes_after_a_worker_has_read_it_is_noticed(
    pack: Path, monkeypatch: pytest.MonkeyPatch, pooled: list[Any]
) -> None:
    from invarlock.packer import verify

    derive = verify._check_claims

    def swap(*arguments: Any) -> list[str]:
        problems = derive(*arguments)
        os.utime(pack / REPORT)
        return problems

    monkeypatch.setattr(verify, "_check_claims", swap)

    assert messages(strict(pack)) == f"{REPORT}: it changed while the pack was verified"


@pytest.mark.parametrize(
    ("dies", "how"), [("os.kill(os.getpid(), 9)", "signal 9"), ("sys.exit(3)", "exit code 3")], ids=["killed", "ended"]
)
def test_a_worker_that_dies_ends_the_verification_cleanly(
    pack: Path, dies: str, how: str, monkeypatch: pytest.MonkeyPatch, pooled: list[Any]
) -> None:
    monkeypatch.setattr(report_pool, "_START", f"import os, sys; {dies}")

    result = strict(pack)

    assert result.code == 7
    assert messages(result) == (
        f"pack: a process that examines reports ended early ({how}); nothing is known of its reports, verify again"
    )


def test_a_defect_in_a_worker_is_raised_in_the_process_that_asked(
    pack: Path, monkeypatch: pytest.MonkeyPatch, pooled: list[Any]
) -> None:
    defect = "import invarlock.packer.report_worker as worker; worker.examine_report = 1"
    broken = report_pool._START.replace("; main(", f"; {defect}; main(")
    monkeypatch.setattr(report_pool, "_START", broken)

    with pytest.raises(TypeError, match="not callable"):
        strict(pack)


def test_the_current_folder_is_no_place_to_import_from(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooled: list[Any]
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)

    assert strict(pack).ok


def test_small_packs_need_no_workers(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pool: report_pool.ReportPool) -> None:
        raise IntegrityError("a worker was started")

    monkeypatch.setattr(report_pool, "_start", refuse)

    assert strict(pack).ok


def test_an_interrupt_ends_verifying_and_its_workers(pack: Path) -> None:
    # a report that is a pipe would not do: nothing waits on one; workers that never answer are waited for
    hang = POOLED.replace(
        "report_pool._cores", "report_pool._START = 'import time; time.sleep(600)'\nreport_pool._cores"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hang, pack, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(600):
        workers = children.read_text().split()
        if len(workers) == 2:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the workers were not started")
    time.sleep(0.5)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (130, "interrupted\n")
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []


def test_workers_end_with_the_process_that_started_them() -> None:
    ours, theirs = report_pool.Pipe()
    command = [sys.executable, "-c", report_pool._START, "0", str(theirs.fileno()), *sys.path]
    worker = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()

    ours.close()

    assert worker.wait(timeout=30) == 0


@pytest.mark.parametrize(
    "data",
    [b"[" + b"{}," * 199_000 + b"{}]", b"[" + b"1.5," * 149_000 + b"1]", b'"' + b"\\u00e9" * 99_000 + b'"'],
    ids=["empty objects", "numbers", "escapes"],
)
def test_workers_together_stay_below_the_memory_of_a_hostile_pack(pack: Path, data: bytes, reseal: Reseal) -> None:
    for number in range(40):
        report = pack / REPORT.replace("run_1", f"run_{number}")
        report.parent.mkdir(exist_ok=True)
        report.write_bytes(data)
    (pack / REPORT.replace("run_1", "run_0").replace("evaluation.report", "runtime.manifest")).unlink(missing_ok=True)
    reseal(pack)

    done = subprocess.run(
        [sys.executable, "-c", POOLED, pack, str(16 << 20)], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 7, done.stdout + done.stderr
    found = re.search(r"peak (\d+) (\d+)", done.stdout)
    assert found is not None
    own, largest_worker = int(found[1]), int(found[2])
    assert (own + 2 * largest_worker) * 1024 < 256 * 1024 * 1024, (own, largest_worker)
