"""No command ends in a traceback, whatever it is given and wherever it runs."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.cli import main as packer
from processes import PACKER, python, succeed

from invarlock.boundary import TRACEBACK_VARIABLE, run_command
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.cli import main as invarlock
from invarlock.errors import MissingFileError, ReportError

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
CODES = {"packer": {0, 2, 3, 4, 5, 6, 7}, "invarlock": {0, 2, 3, 5, 6, 7}}
UNKNOWN_USER = (
    "setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--inh-caps", "+dac_read_search",
    "--ambient-caps", "+dac_read_search", "--bounding-set", "-dac_override",
)  # fmt: skip
# A Python without the packages of the extras.
CORE_ONLY = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        package = name.split('.')[0]
        if package in ('torch', 'transformers', 'safetensors', 'accelerate', 'huggingface_hub', 'tokenizers'):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
sys.meta_path.insert(0, Missing())
from invarlock.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_odd_files_and_folders_end_in_one_line_and_a_documented_code(real_run: Any, tmp_path: Path) -> None:
    done = succeed(python(SUPPORT / "odd_command_lines.py", tmp_path, real_run.directory))
    rows = json.loads(done.stdout)
    assert len(rows) > 1500
    assert [row for row in rows if row[1] not in CODES[row[0][0]]] == []
    assert [row for row in rows if "Traceback" in row[2] or "a bug in InvarLock" in row[2]] == []
    # what is well is taken, and what is odd is not
    assert {row[1] for row in rows} >= {0, 2, 3, 6, 7}
    # the devices that were named are devices still
    devices = [Path(f"/dev/{name}") for name in ("full", "null")] + [
        path for path in tmp_path.glob("device_*") if path.suffix == ""
    ]
    assert [path for path in devices if not path.is_char_device()] == []


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ReportError("a\x1b[2Jb"), 7, "error: a\\x1b[2Jb"),
        (MissingFileError("a\nb"), 3, "error: a\\nb"),
        (PermissionError(13, "Permission denied", "x\n"), 2, "x\\n: Permission denied"),
        (UnicodeEncodeError("latin-1", "\u2026", 0, 1, "ordinal not in range"), 2, "LC_ALL=C.UTF-8"),
        (MemoryError(), 2, "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
        (OverflowError("too large"), 2, "a bug in InvarLock"),
        (ValueError("x"), 2, "a bug in InvarLock"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "pip install 'invarlock[suite]'"),
        (ModuleNotFoundError("x", name="pyarrow.parquet"), 2, "pip install 'invarlock[parquet]'"),
        (ImportError("libcudnn.so: cannot open"), 2, "libcudnn.so: cannot open"),
        (type("PanicException", (BaseException,), {})("a Rust panic"), 2, "a Rust panic"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line_and_its_traceback_is_available(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise error

    plain = run_command(fail), capsys.readouterr()
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    shown = run_command(fail), capsys.readouterr()

    assert (plain[0], shown[0]) == (code, code)
    assert plain[1].out == ""
    assert words in plain[1].err
    assert plain[1].err.count("\n") == 1
    assert ("in fail" in shown[1].err) == (code != 130)
    assert shown[1].err.endswith(plain[1].err)


def shell(line: str, *command: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command with a shell's redirections."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {line}', "sh", *map(str, command)],
        env={**environment, **variables}, capture_output=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        ("<&- >&- 2>&-", 0),
        ("> /dev/full", 2),
        ("2> /dev/full", 0),
        ("> /dev/full 2>&1", 2),
    ],
)
def test_outputs_may_be_closed_or_full(pack: Path, tmp_path: Path, line: str, code: int) -> None:
    shutil.copy(pack / "manifest.json", tmp_path / "kept.json")

    done = shell(line, *PACKER, "verify", pack)
    listed = shell(line, *PACKER, "trust", "list", "--trust-store", tmp_path / "none")
    helped = shell(line, *PACKER, "--help")

    assert (done.returncode, listed.returncode) == (code, 3), done.stderr
    assert helped.returncode in (0, 2)
    assert b"Traceback" not in done.stderr + listed.stderr + helped.stderr
    assert b"Exception ignored" not in done.stderr + listed.stderr + helped.stderr
    # nothing that was printed went into a file that was opened meanwhile
    assert (pack / "manifest.json").read_bytes() == (tmp_path / "kept.json").read_bytes()


def test_a_reader_that_goes_away_is_no_error_message(pack: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" --json | true; echo "${PIPESTATUS[0]}"', "bash", *PACKER, "verify", str(pack)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.stdout, done.stderr) in (("0\n", ""), ("2\n", ""))


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii:strict"},
    ],
)
def test_any_encoding_prints(pack: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + "/模型…".encode()))
    shutil.move(pack, odd)

    done = shell("", *PACKER, "verify", odd, **variables)

    assert (done.returncode, b"VERIFIED: " in done.stdout) == (0, True), done.stderr


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="changing the user takes root")
def test_a_user_without_a_home_verifies_and_one_with_the_home_of_another_is_warned(pack: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config" / "invarlock").mkdir(parents=True)
    (home / ".config" / "invarlock").chmod(0)
    command = [*UNKNOWN_USER, *PACKER]
    nowhere = {name: value for name, value in os.environ.items() if name != "HOME"}
    # root may search this folder, whom the test's user is not; what it may not pass over is who may write
    runs = {
        words: subprocess.run([*command, *words.split()], env=nowhere, capture_output=True, text=True, check=False)
        for words in (f"verify {pack}", "trust list", f"trust revoke sha256:{'0' * 64}")
    }

    assert runs[f"verify {pack}"].returncode == 0, runs[f"verify {pack}"].stderr
    assert (runs["trust list"].returncode, "set HOME" in runs["trust list"].stderr) == (2, True)
    assert all("Traceback" not in done.stderr for done in runs.values())


def test_a_trust_store_that_cannot_be_read_is_an_error(tmp_path: Path, pack: Path) -> None:
    home = tmp_path / "home"
    (home / ".config").mkdir(parents=True)
    # as a folder that may not be searched, but for root too: a link that leads to itself
    (home / ".config" / "invarlock").symlink_to(home / ".config" / "invarlock")

    done = shell("", *PACKER, "verify", pack, HOME=str(home))

    assert (done.returncode, b"set HOME" in done.stderr) == (2, True), done.stderr


def test_a_passphrase_that_no_tool_takes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {}
    for length in (1023, 1024, 100_000):
        monkeypatch.setenv("KEY_PASSPHRASE", "x" * length)
        codes[length] = packer(["keygen", str(tmp_path / f"k{length}"), "--passphrase-env", "KEY_PASSPHRASE"])

    assert codes == {1023: 0, 1024: 2, 100_000: 2}


def test_an_unwritable_place_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "x")
    lines = [
        # without a folder to learn from, a model and shards: what is said first is that there is no place for it
        (invarlock, ["advanced", "calibrate", str(tmp_path / "none"), "--output", place]),
        (invarlock, ["tune", "none", "--output", place]),
        (invarlock, ["evaluate", "--baseline", "n", "--subject", "n", "--text", "n", "--output-dir", place]),
        (invarlock, ["verify", "none", "--json-out", place]),
        (packer, ["merge", "none", "--output", place, "--unsigned"]),
    ]

    found = [(main(line), capsys.readouterr().err) for main, line in lines]

    assert [code for code, _ in found] == [2] * len(lines)
    assert all("cannot be created" in said or "cannot be written" in said for _, said in found), found


def test_a_pack_for_a_report_and_a_folder_for_a_file_are_named(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = next(pack.glob("reports/**/evaluation.report.json"))

    codes = (
        invarlock(["verify", str(pack), str(report)]),
        invarlock(["verify", str(report), "--baseline-report", str(pack)]),
        packer(["verify", str(pack), "--trust-store", str(pack)]),
    )
    said = capsys.readouterr().err.splitlines()

    assert codes == (2, 3, 2)
    assert f"{pack} is a pack and {report} is a report" in said[0]
    assert f"{pack / 'evaluation.report.json'}: no such file" in said[1]
    assert "a folder" in said[2]


@pytest.mark.parametrize("command", ["evaluate", "tune", "verify", "calibrate"])
def test_a_core_only_install_says_what_to_install(real_run: Any, tmp_path: Path, command: str) -> None:
    embedded = ROOT / "suites" / "embedded"
    model = tmp_path / "mistral-tiny"
    make_snapshot(embedded / "mistral-tiny", embedded / "tokenizer", model, None)
    report = next(real_run.directory.glob("*/reports/noop_control/run_1/evaluation.report.json"))
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged. " * 2000)
    lines = {
        "evaluate": [
            "--baseline",
            model,
            "--subject",
            model,
            "--text",
            text,
            "--output-dir",
            tmp_path / "out",
            "--seq-len",
            64,
        ],
        "tune": [model, "--suites", ROOT / "suites", "--output", tmp_path / "tuned.json"],
        "verify": [report],
        "calibrate": [real_run.directory, "--output", tmp_path / "proposal.json"],
    }
    name = ["advanced", "calibrate"] if command == "calibrate" else [command]

    done = python("-c", CORE_ONLY, *name, *lines[command])

    if command in ("evaluate", "tune"):
        assert (done.returncode, "pip install 'invarlock[suite]'" in done.stderr) == (2, True), done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
    else:
        assert done.returncode == 0, done.stderr


INTERRUPTED_AT = """
import runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = ["--help"]
runpy.run_module({program!r}, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("invarlock", "invarlock.cli.program"),
        ("invarlock", "invarlock.cli.evaluating"),
        ("invarlock.packer", "invarlock.packer.cli"),
        ("invarlock.packer", "invarlock.packer.commands"),
    ],
)
def test_an_interrupt_during_the_imports_is_one_line(program: str, module: str) -> None:
    done = python("-c", INTERRUPTED_AT.format(program=program, module=module))

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
