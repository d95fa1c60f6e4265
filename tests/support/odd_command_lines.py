"""Runs command lines with odd paths in place of files and folders, without root's power to bypass permissions.

``python odd_command_lines.py FOLDER RUN`` makes the odd files in FOLDER and prints a JSON list of [arguments, exit
code, what was printed]. RUN is the folder of an intact run.
"""

import ctypes
import io
import json
import os
import resource
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from invarlock.packer.cli import main as packer
from invarlock.packer.trust import editing as trust_editing

from invarlock.cli import main as invarlock

# linux/prctl.h and linux/capability.h
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
MARK = "BOUND_TO_PERMISSIONS"
HEX = f"sha256:{'0' * 64}"
# Each upper-case word stands for a path. It is replaced by each odd path in turn, while the line's others stay valid.
PACKER = (
    "keygen NAME",
    "build OUT --final-verdict VERDICT --report REPORT --baseline BASELINE --signing-key KEY",
    "build OUT --final-verdict VERDICT --report REPORT --scenarios SCENARIOS --pytest-report ACCOUNT --readme README",
    "build OUT --final-verdict VERDICT --report REPORT --source-repo SOURCE --environment ENVIRONMENT",
    "build OUT --final-verdict VERDICT --report REPORT --presets PRESETS",
    "build OUT --final-verdict VERDICT --report REPORT --material name=MATERIAL",
    "merge RUN OTHER --output OUT --unsigned",
    "merge RUN --output OUT --signing-key KEY",
    "sign PACK --signing-key KEY",
    "attest PACK --signing-key KEY",
    f"trust add {HEX} --trust-store STORE",
    "trust add PUBLIC --trust-store STORE --name x",
    "trust list --trust-store STORE",
    f"trust revoke {HEX} --trust-store STORE",
    "inspect PACK",
    "inspect PACK --json",
    "verify PACK",
    "verify PACK --trust-store STORE",
    "verify PACK --json-out OUT",
    "verify PACK OTHER --json",
    "diff PACK OTHER",
)
INVARLOCK = (
    "evaluate --baseline BASELINE --subject SUBJECT --text TEXT --output-dir OUT",
    "evaluate --baseline BASELINE --subject SUBJECT --text TEXT --output-dir OUT --baseline-report REPORT",
    "evaluate --baseline BASELINE --subject SUBJECT --text TEXT --output-dir OUT --preset PRESET",
    "verify REPORT",
    "verify REPORT OTHER --json-out OUT",
    "verify REPORT --baseline-report BASELINE",
    "verify REPORT --preset PRESET",
    "tune MODEL --output OUT",
    "tune mistral-tiny --suites SUITES --output OUT",
    "advanced calibrate FOLDER --output OUT",
    "advanced evidence-pack verify PACK",
)


def odd_paths(folder: Path) -> dict[str, Path]:
    """Make the odd files, and return their paths by a description of what is odd."""
    inner = folder / "inner"
    inner.mkdir()
    (inner / "manifest.json").write_text("{}")
    contents = {
        "empty": b"",
        "garbage": bytes(range(256)) * 16,
        "deep": b"[" * 100_000,
        "scalar": b"1",
        "list": b"[[], {}, null]",
        "object": b'{"trusted_signers": 5, "fingerprints": {}, "format": "x", "scenarios": 3, "tests": {}}',
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    for name in ("state", "reports"):
        (folder / "run" / name).mkdir(parents=True)
        (folder / "run" / name / "shard.json").mkdir()
    listed_only = folder / "listed_only"
    listed_only.mkdir()
    (listed_only / "manifest.json").write_text("{}")
    listed_only.chmod(0o444)
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(0)
    (folder / "unreadable").write_text("{}")
    (folder / "unreadable").chmod(0)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "nowhere")
    odd = Path(os.fsdecode(bytes(folder) + b"/\x1b[31m\xff\n"))
    odd.mkdir()
    (odd / "manifest.json").write_text("{}")
    sparse = folder / "sparse"
    sparse.touch()
    os.truncate(sparse, 60 * 10**9)
    names = ("inner", *contents, "run", "listed_only", "locked", "unreadable", "loop", "dangling", "sparse", "missing")
    return {
        **{name: folder / name for name in names},
        "odd name": odd,
        "long name": folder / ("x" * 300),
        "below a file": folder / "empty" / "x",
        "below a locked folder": locked / "x",
        "below a listed folder": listed_only / "manifest.json",
        **devices(folder),
        "memory": Path("/proc/self/mem"),
        "no user": Path("~nobody-of-this-name/x"),
        "dot": Path(),
    }


def devices(folder: Path) -> dict[str, Path]:
    """Return devices like /dev/full and /dev/null. Root gets copies of them, because it could replace the originals."""
    found = {"full": Path("/dev/full"), "null": Path("/dev/null")}
    for name, path in found.items() if os.getuid() == 0 else ():
        found[name] = folder / f"device_{name}"
        os.mknod(found[name], stat.S_IFCHR | 0o666, path.stat().st_rdev)
    return found


def well(run: Path, folder: Path) -> dict[str, Path]:
    """Return a valid path for each word; for other words, `command_lines` uses a path that does not exist."""
    model = run / "embedded__mistral-tiny"
    report = model / "reports" / "noop_control" / "run_1" / "evaluation.report.json"
    return {
        "VERDICT": run / "reports" / "final_verdict.json",
        "REPORT": report,
        "BASELINE": model / "baseline" / "evaluation.report.json",
        "SCENARIOS": run / "state" / "scenarios.json",
        "ACCOUNT": run / "state" / "pytest_report.json",
        "SOURCE": run / "state" / "source_repo.json",
        "ENVIRONMENT": run / "state" / "environment.json",
        "PRESETS": run / "presets",
        "README": folder / "scalar",
        "MATERIAL": folder / "garbage",
        "KEY": run.parent / "maker.pem",
        "PUBLIC": run.parent / "maker.pub.pem",
        "PACK": run / "evidence_pack",
        "OTHER": run / "evidence_pack",
        "RUN": folder / "run",
    }


def command_lines(paths: dict[str, Path], folder: Path, run: Path) -> Iterator[list[str]]:
    """Yield each command line with each odd path in each place."""
    known = well(run, folder)
    for program, lines in (("packer", PACKER), ("invarlock", INVARLOCK)):
        for line in lines:
            words = line.split()
            places = [number for number, word in enumerate(words) if word.rpartition("=")[2].isupper()]
            for place in places:
                for path in paths.values():
                    given = list(words)
                    for number in places:
                        prefix, separator, word = words[number].rpartition("=")
                        usual = known.get(word, folder / "missing")
                        given[number] = f"{prefix}{separator}{path if number == place else usual}"
                    yield [program, *given]
                    shutil.rmtree(folder / "missing", ignore_errors=True)
                    (folder / "missing").unlink(missing_ok=True)


def run(arguments: list[str]) -> tuple[int, str]:
    """Run a command line in this process and return its exit code and output."""
    printed = io.StringIO()
    main = packer if arguments[0] == "packer" else invarlock
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            code = main(arguments[1:])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, printed.getvalue()


def bind_to_permissions() -> None:
    """As root, restart this program without the capabilities to bypass file permissions; root still owns its files."""
    if os.getuid() != 0 or MARK in os.environ:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.environ[MARK] = "1"
    os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    bind_to_permissions()
    here = Path(sys.argv[1])
    os.chdir(here)
    # so that the test fails if a file of 60 GB is read instead of refused
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    trust_editing.LOCK_SECONDS = 0.1
    lines = command_lines(odd_paths(here), here, Path(sys.argv[2]))
    print(json.dumps([(line, *run(line)) for line in lines]))
