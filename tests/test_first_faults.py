"""The faults that operators meet first: each command ends with one line that says what is wrong and what to do."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build import build_pack
from packs import TIME, content

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Fault:
    """A command that fails.

    Attributes:
        arguments: what follows ``python -m``.
        variables: of the environment.
        exit_code: of the command.
        says: how its one line names the fault.
        remedies: what the line says to do, as one types it.
    """

    arguments: tuple[str, ...]
    variables: dict[str, str]
    exit_code: int
    says: str
    remedies: tuple[str, ...]


def suite(*arguments: str) -> tuple[str, ...]:
    """Return the arguments of a run that plans, and stops before its first case."""
    quick = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--output-dir", "made")
    return ("pytest", str(ROOT / "suites"), *quick, *arguments)


FAULTS = {
    "no file of tuned parameters": Fault(
        suite("-m", "smoke and clean"),
        {"PACK_TUNED_EDIT_PARAMS_FILE": "absent.json"},
        4,
        "absent.json: no such file",
        ("put the file there", "PACK_TUNED_EDIT_PARAMS_FILE", "invarlock tune MODEL --output FILE"),
    ),
    "no tuned parameters of this model": Fault(
        suite("-m", "smoke and clean and mistral-tiny"),
        {"PACK_TUNED_EDIT_PARAMS_FILE": "empty.json"},
        4,
        "empty.json: no parameters of ",
        ("PACK_TUNED_EDIT_PARAMS_FILE", "invarlock tune embedded/mistral-tiny --output FILE"),
    ),
    "no container engine": Fault(
        suite("-k", "noop", "--execution-mode", "container"),
        {"PATH": "."},
        4,
        "no container engine",
        ("install podman or docker", "podman build -t invarlock-runtime:local .", "INVARLOCK_ALLOW_HOST_EXECUTION=1"),
    ),
    "too little disk": Fault(
        suite("-k", "noop"),
        {"MIN_FREE_DISK_GB": "900000"},
        4,
        "900000 GB must stay free",
        ("free some space", "--output-dir", "lower MIN_FREE_DISK_GB", "PACK_SKIP_DISK_PREFLIGHT=1"),
    ),
    "no opt-in to remote code": Fault(
        suite("-m", "subset", "--execution-mode", "host"),
        {},
        4,
        "suite subset: GPU suites need the opt-in",
        ("INVARLOCK_ALLOW_REMOTE_CODE=1; set it",),
    ),
    "an unsigned pack": Fault(
        ("invarlock.packer", "verify", "unsigned"),
        {},
        5,
        "the pack is not signed",
        (
            "python -m invarlock.packer keygen KEY.pem",
            "python -m invarlock.packer sign PACK --signing-key KEY.pem",
            "--allow-unsigned",
        ),
    ),
    "no file of pins": Fault(
        suite("-k", "noop"),
        {"PACK_MODEL_REVISIONS_FILE": "absent.json"},
        4,
        "absent.json: no such file",
        ("state/model_revisions.json of a run with --net 1", "leave the variable out"),
    ),
    "no text of two checkpoints": Fault(
        ("invarlock", "evaluate", "--baseline", ".", "--subject", ".", "--text", "absent.txt", "--output-dir", "out"),
        {},
        3,
        "absent.txt: no such file",
        ("name a text to score on with --text",),
    ),
}


@pytest.fixture
def fail(tmp_path: Path) -> Callable[[Fault], subprocess.CompletedProcess[str]]:
    """Return a function that runs the command of a fault in a folder with a file without parameters."""
    (tmp_path / "empty.json").write_text('{"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}')

    def run(fault: Fault) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PACK_", "INVARLOCK_", "PYTEST_", "OUTPUT_DIR", "MIN_FREE", "GITHUB_STEP"))
        }
        return subprocess.run(
            [sys.executable, "-m", *fault.arguments],
            cwd=tmp_path,
            env={**clean, "OMP_NUM_THREADS": "1", **fault.variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def line_of(fault: Fault, output: str) -> str:
    lines = [line for line in output.splitlines() if fault.says in line]
    assert len(lines) == 1, output
    return lines[0]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_line_of_a_fault_says_what_to_do(
    fault: Fault, fail: Callable[[Fault], Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "unsigned" in fault.arguments:
        build_pack(tmp_path / "unsigned", content(request.getfixturevalue("run")), None, TIME)

    done = fail(fault)

    line = line_of(fault, done.stdout + done.stderr)
    assert [remedy for remedy in fault.remedies if remedy not in line] == []
    assert done.returncode == fault.exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "made").exists()
