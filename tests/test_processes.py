"""How tests start the product's commands and pytest."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from processes import light, packer, packer_process, python, run_pytest, succeed

TESTS = Path(__file__).parent
STARTS = re.compile(r'sys\.executable, "-m", "(pytest|invarlock)')


def test_one_module_starts_pytest_and_the_products_commands() -> None:
    found = [path.name for path in TESTS.rglob("*.py") if STARTS.search(path.read_text("utf-8"))]

    assert found == ["processes.py"]


@pytest.mark.parametrize("arguments", [("verify", "nowhere"), ("verify",), ("trust", "list", "--trust-store", "none")])
def test_a_command_ends_the_same_in_this_process_and_in_its_own(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # usage is wrapped at the width of the terminal
    monkeypatch.setenv("COLUMNS", "120")
    here, there = packer(*arguments, cwd=tmp_path), packer_process(*arguments, cwd=tmp_path)

    assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)
    assert here.returncode != 0


def test_a_light_process_runs_each_command_as_one_of_its_own() -> None:
    helped, refused = light("packer", [("verify", "--help"), ("verify", "nowhere")])

    assert (helped.returncode, helped.stdout.startswith("usage: ")) == (0, True)
    assert (refused.returncode, refused.stdout) == (3, packer_process("verify", "nowhere").stdout)


def test_a_failure_shows_what_was_printed_and_a_process_that_hangs_is_killed() -> None:
    with pytest.raises(AssertionError, match=r"ended with 3\n(.|\n)*the last words"):
        succeed(python("-c", "import sys; print('the last words'); sys.exit(3)"))
    with pytest.raises(subprocess.TimeoutExpired):
        python("-c", "import time; time.sleep(60)", seconds=0.2)


@pytest.mark.slow
def test_a_pytest_that_is_forked_sees_its_own_folder_variables_and_end(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("VALUE = 1\n")
    (tmp_path / "test_own.py").write_text(
        "import os, sys, time\nimport own\n"
        "def test_own():\n    assert (own.VALUE, os.environ['OWN'], os.getcwd()) == (1, 'x', sys.path[0])\n"
        "def test_imported():\n    assert 'torch' in sys.modules\n"
        "def test_fails():\n    assert os.environ['OWN'] == 'y'\n"
        "def test_hangs():\n    time.sleep(60)\n"
    )
    variables = {"OWN": "x", "OMP_NUM_THREADS": "1"}

    done = run_pytest("-k", "not hangs", cwd=tmp_path, env=variables)

    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    with pytest.raises(subprocess.TimeoutExpired):
        run_pytest("-k", "hangs", cwd=tmp_path, env=variables, seconds=2)
    # variables that PyTorch reads when it is imported need a process that imports it
    assert "1 failed" in run_pytest("-k", "imported", cwd=tmp_path, env={"OMP_NUM_THREADS": "2"}).stdout
