"""Packs made to exhaust the verifier's resources: they fail cleanly, within 256 MB of memory and 60 seconds."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.format.checksums import CONTROL_FILES, write_checksums
from invarlock.packer.format.limits import (
    MAX_CHECKSUMS_BYTES,
    MAX_FILES,
    MAX_FOLDERS,
    MAX_JSON_BYTES,
    MAX_JSON_VALUES,
    MAX_REPORTS,
)
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import REPORT, codes, edit_json, pack_files, sha256, sign, strict
from processes import python, succeed

from invarlock.jsonio import dump_json, parse_json
from invarlock.problems import Code

MEMORY_BYTES = 256 * 1024 * 1024
SECONDS = 60
# Prints the peak memory of the process in bytes. getrusage would include the peak of the process that forked it.
MEASURED = """
import re, sys
from pathlib import Path
from invarlock.packer.cli import main
code = main(sys.argv[1:])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print("peak", int(peak[1]) * 1024)
sys.exit(code)
"""
Act = Callable[[Path], object]


def many_files(pack: Path) -> None:
    for number in range(3_000):
        (pack / f"results/{number}.json").touch()


def many_folders(pack: Path) -> None:
    folder = pack
    for number in range(200):
        folder = folder / str(number)
        folder.mkdir()


def empty_folders(pack: Path) -> None:
    for number in range(MAX_FOLDERS + 1):
        (pack / "reports" / str(number)).mkdir()
    # its name sorts after all the others
    (pack / "reports" / "x").mkdir()
    (pack / "reports" / "x" / "evaluation.html").write_text("PASS")


def folders_of_many_names(pack: Path) -> None:
    """Nest 14 folders, each with more names than should be held in one list."""
    folder = pack
    for _ in range(14):
        folder = folder / "0"
        folder.mkdir()
        (folder / "a").touch()
        for number in range(12_000):
            (folder / f"{number}.txt").hardlink_to(folder / "a")


HOSTILE: dict[str, tuple[Act, int]] = {
    "a sparse file of 4 TB": (lambda p: sparse(p / REPORT, 4 << 40), 6),
    "a manifest of empty objects": (lambda p: (p / "manifest.json").write_bytes(b"[" + b"{}," * 2_000_000 + b"{}]"), 4),
    "a manifest of long keys": (
        lambda p: (p / "manifest.json").write_bytes(json.dumps({"k" * 4_000_000: "v" * 4_000_000}).encode()), 4,
    ),
    "checksums of blank lines": (lambda p: (p / "checksums.sha256").write_bytes(b"\n" * MAX_CHECKSUMS_BYTES), 6),
    "a report of empty objects": (
        lambda p: (p / REPORT).write_bytes(b"[" + b"{}," * (MAX_JSON_VALUES // 2 - 4) + b"{}]"), 7,
    ),
    "a report of one string": (lambda p: (p / REPORT).write_bytes(b'"' + b"x" * (MAX_JSON_BYTES - 2) + b'"'), 7),
    "a report of escapes": (
        lambda p: (p / REPORT).write_bytes(b'"' + b"\\u00e9" * ((MAX_JSON_BYTES - 2) // 6) + b'"'), 7,
    ),
    "a report of brackets": (lambda p: (p / REPORT).write_bytes(b"[" * 100_000), 7),
    "files that are not sealed": (many_files, 6),
    "folders in folders": (many_folders, 6),
    "empty folders": (empty_folders, 6),
    "folders of many names in folders": (folders_of_many_names, 6),
}  # fmt: skip


def wide(pack: Path) -> None:
    """Insert a long text with one character that makes Python store four bytes for every character."""
    long = "x" * (MAX_JSON_BYTES * 3 // 4) + "\U0001f600"
    edit_json(pack / REPORT, lambda report: report["scoring"].update(not_scored=long))


def long_flags(pack: Path) -> None:
    """Give each scenario detectors with a long flag, which the reasons of each record would repeat."""
    detector = {"kind": "validation_flag", "flag": "x" * 300_000, "expected": False}

    def change(scenarios: Any) -> None:
        for row in scenarios["scenarios"]:
            row["requirements"]["detectors_all_of"] = [detector] * 8

    edit_json(pack / "metadata/scenarios.json", change)


def large_runtime_manifests(pack: Path) -> None:
    rows = b"[" + b"1," * (MAX_JSON_VALUES // 2) + b"1]"
    for path in pack.glob("reports/**/runtime.manifest.json"):
        path.write_bytes(rows)


HOSTILE["a text of wide characters"] = (wide, 7)
HOSTILE["detectors with long flags"] = (long_flags, 7)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


def test_the_verdict_of_the_most_reports_is_within_the_limits(pack: Path) -> None:
    verdict = json.loads((pack / "results/final_verdict.json").read_bytes())
    verdict["records"] *= MAX_REPORTS // len(verdict["records"])

    many = parse_json(dump_json(verdict), where="it", limit_bytes=MAX_JSON_BYTES, limit_values=MAX_JSON_VALUES)

    assert len(many["records"]) > 0.99 * MAX_REPORTS


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pack_costs_little(name: str, pack: Path, real_run: Any) -> None:
    act, code = HOSTILE[name]
    act(pack)
    if code == 7:
        digests = {path: sha256(data) for path, data in pack_files(pack).items() if path not in CONTROL_FILES}
        (pack / "checksums.sha256").write_bytes(write_checksums(digests))
    if code in (6, 7):
        manifest = json.loads((pack / "manifest.json").read_bytes())
        manifest["materials"] = []
        sign(pack, manifest, real_run.key)

    done = python("-c", MEASURED, "verify", pack, "--strict", seconds=SECONDS)

    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert int(done.stdout.rsplit("peak ", 1)[1]) < MEMORY_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(("folders", "code"), [(MAX_FOLDERS - 100, 0), (MAX_FOLDERS, 6), (100_001, 6)])
def test_a_listing_that_was_cut_off_is_a_problem_with_and_without_strict_checks(
    pack: Path, folders: int, code: int
) -> None:
    (pack / "empty").mkdir()
    for number in range(folders):
        (pack / "empty" / str(number)).mkdir()

    for options in (VerifyOptions(), VerifyOptions(strict=True), VerifyOptions(report_assurance="off")):
        result = verify_pack(pack, options)
        assert (result.code, Code.PACK_TOO_LARGE in codes(result)) == (code, code == 6)


def test_inspecting_keeps_no_document(pack: Path) -> None:
    large_runtime_manifests(pack)

    done = succeed(python("-c", MEASURED, "inspect", pack, "--json"))

    assert int(done.stdout.rsplit("peak ", 1)[1]) < MEMORY_BYTES // 2


@pytest.mark.slow
def test_as_many_lines_as_checksums_may_have_cost_little(pack: Path, real_run: Any) -> None:
    zeros = "0" * 64
    (pack / "checksums.sha256").write_text("".join(f"{zeros}  x/{number}\n" for number in range(MAX_FILES)))
    sign(pack, json.loads((pack / "manifest.json").read_bytes()), real_run.key)

    done = python("-c", MEASURED, "verify", pack, "--strict", seconds=SECONDS)

    assert done.returncode == 6, done.stdout + done.stderr
    assert int(done.stdout.rsplit("peak ", 1)[1]) < MEMORY_BYTES


def test_a_file_that_grows_while_the_pack_is_verified_is_noticed(pack: Path) -> None:
    (pack / "README.md").chmod(0o644)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with (pack / REPORT).open("ab") as stream:
                stream.write(b" ")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        codes = {strict(pack).code for _ in range(5)}
    finally:
        stop.set()
        writer.join()

    assert codes == {6}


@pytest.mark.parametrize("name", [REPORT, "README.md", "metadata/environment.json", "results/final_verdict.json"])
def test_a_file_that_is_replaced_by_its_own_bytes_while_the_pack_is_verified_is_noticed(
    pack: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the file is replaced at the latest possible moment: after the reports were derived, before the last check of files
    from invarlock.packer.verify import claims, verifying

    check = claims.check_claims

    def swap(*arguments: Any) -> claims.Claims:
        checked = check(*arguments)
        (pack / "copy").write_bytes((pack / name).read_bytes())
        (pack / "copy").replace(pack / name)
        return checked

    monkeypatch.setattr(verifying, "check_claims", swap)

    result = strict(pack)

    assert result.code == 6
    assert (Code.FILE_CHANGED, name) in {(problem.code, problem.where) for problem in result.problems}
