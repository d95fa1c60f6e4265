"""A disk that fills up while cases run: a real file system of a few megabytes."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

RunPytest = Callable[..., Any]
# The baseline and its report take 2.4 MB, its most probable tokens 12.5 MB, and a subject with changed weights 2.1 MB.
# The subject of noop consists of links.
SIZE = "16m"
SELECT = ("-k", "mistral and (noop or nan_injection)")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", f"size={SIZE}", "none", folder)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*arguments: object) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess([], 1, "", str(error))


def test_a_case_that_fills_the_disk_is_an_error_and_the_others_are_done(
    run_pytest: RunPytest, small_disk: Path
) -> None:
    directory = small_disk / "run"

    ran = run_pytest(*SELECT, directory=directory, PACK_SKIP_DISK_PREFLIGHT="1")
    left = [path for path in directory.rglob("*") if "staging" in path.name or path.suffix == ".tmp"]
    subjects = list(directory.glob("*/models/*"))
    records = verdict(directory)["records"]
    pack = directory / "evidence_pack"
    assert mount("-o", "remount,size=64m", small_disk).returncode == 0
    after = run_pytest(*SELECT, "--resume", "--pack-dir", str(small_disk / "pack"), directory=directory)

    assert ran.status == 1, ran.output
    assert "No space left on device; check disk space and permissions" in ran.output
    assert "Traceback" not in ran.output
    assert "INTERNALERROR" not in ran.output
    assert [(record["name"], record["passed"]) for record in records] == [("noop_control", True)]
    assert (left, subjects) == ([], [])
    assert not pack.exists() or json.loads((pack / "results/final_verdict.json").read_bytes())["verdict"] == "FAIL"
    assert after.status == 0, after.output
    assert verdict(directory)["verdict"] == "PASS"
    assert not list(directory.rglob("*.stale"))


def test_a_disk_that_is_full_when_the_run_ends_is_one_line(
    run_pytest: RunPytest, own_suites: Path, small_disk: Path
) -> None:
    with (own_suites / "conftest.py").open("a") as stream:
        stream.write(
            "\n\n@pytest.hookimpl(tryfirst=True)\n"
            "def pytest_sessionfinish(session):\n"
            "    from invarlock.harness.session import SESSION\n"
            "    run = session.config.stash[SESSION].run\n"
            "    with (run.directory.path / 'fill').open('wb', buffering=0) as stream:\n"
            "        try:\n"
            "            while True:\n"
            "                stream.write(bytes(4096))\n"
            "        except OSError:\n"
            "            pass\n"
        )

    ran = run_pytest(
        "-k", "mistral and noop", suites=own_suites, directory=small_disk / "run", PACK_SKIP_DISK_PREFLIGHT="1"
    )

    assert ran.status == 1, ran.output
    assert "there is no verdict: " in ran.output
    assert "No space left on device; check disk space and permissions, then continue with --resume" in ran.output
    assert "INTERNALERROR" not in ran.output


def verdict(directory: Path) -> Any:
    return json.loads((directory / "reports/final_verdict.json").read_bytes())
