"""The Makefile's targets run the commands of the documentation, and nothing else."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from invarlock.packer.cli import main as packer

ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def make(*arguments: str, path: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in the checkout; programs come from this environment first, or from ``path`` alone."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PACK_", "INVARLOCK_", "PYTEST_", "MAKE", "MFLAGS", "OUTPUT_DIR", "GITHUB_STEP"))
        and name not in ("SUITE", "OPTIONS", "ENGINE", "VARIANT")
    }
    programs = path or f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(MAKE), "--no-print-directory", *arguments],
        cwd=ROOT,
        env={**clean, "PATH": programs, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(*arguments: str, path: str | None = None, **variables: str) -> list[list[str]]:
    """Return the commands that make would run, split as a shell splits them."""
    done = make("-n", *arguments, path=path, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def documented(page: str) -> list[list[str]]:
    """Return the commands in the code blocks of a page, without comments, split as a shell splits them."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    # a block of output is no command, and may have an odd quotation mark
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(("pip ", "pytest ", "podman "))]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    ("arguments", "page"),
    [
        (("dev-install",), "CONTRIBUTING.md"),
        (("runtime-image", "ENGINE=podman", "VARIANT=cpu"), "docs/container.md"),
        (("pack", "SUITE=subset", "OPTIONS=-n 4 --net 1"), "docs/models.md"),
        (("pack", "SUITE=subset", "OPTIONS=-n 4"), "docs/models.md"),
    ],
)
def test_a_target_runs_one_command_of_the_documentation(arguments: tuple[str, ...], page: str) -> None:
    (command,) = commands(*arguments)

    assert command in documented(page)


def test_a_mark_expression_stays_one_argument() -> None:
    assert commands("pack", "SUITE=smoke and clean") == [["pytest", "suites", "-m", "smoke and clean"]]


def test_the_image_is_of_the_containerfiles_variant_and_the_documentations_name() -> None:
    (command,) = commands("runtime-image", "ENGINE=podman")

    (plain,) = [line for line in documented("docs/container.md") if line[:2] == ["podman", "build"] and len(line) == 5]
    default = re.search(r"^ARG VARIANT=(\w+)$", (ROOT / "Containerfile").read_text("utf-8"), re.MULTILINE)
    assert default is not None
    assert command == [*plain[:-1], "--build-arg", f"VARIANT={default[1]}", plain[-1]]


@pytest.mark.parametrize(
    ("installed", "variables", "used"),
    [
        (("podman", "docker"), {}, "podman"),
        (("docker",), {}, "docker"),
        ((), {}, "podman"),
        (("podman", "docker"), {"INVARLOCK_CONTAINER_ENGINE": "docker"}, "docker"),
        (("podman",), {"INVARLOCK_CONTAINER_ENGINE": ""}, "podman"),
    ],
)
def test_the_image_is_built_by_the_engine_that_a_run_takes(
    installed: tuple[str, ...], variables: dict[str, str], used: str, tmp_path: Path
) -> None:
    for name in installed:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)

    (command,) = commands("runtime-image", path=str(tmp_path), **variables)

    assert command[0] == used


def test_make_alone_lists_every_target_and_runs_none() -> None:
    done = make()

    phony = re.search(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony is not None
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == phony[1].split()


def test_a_target_ends_with_the_failure_of_its_command() -> None:
    done = make("pack", "SUITE=smok", "OPTIONS=-p no:cacheprovider --collect-only -q")

    assert done.returncode != 0
    assert "'smok'" in done.stdout + done.stderr


@pytest.mark.slow
def test_make_pack_leaves_a_pack_that_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"-q -p no:cacheprovider -p no:hypothesispytest -k 'mistral and noop' --output-dir '{tmp_path / 'run'}'"
    small = {"INVARLOCK_PREVIEW_WINDOWS": "8", "INVARLOCK_FINAL_WINDOWS": "16", "DRIFT_CALIBRATION_RUNS": "0"}

    done = make("pack", "SUITE=smoke", f"OPTIONS={options}", OMP_NUM_THREADS="1", **small)

    assert done.returncode == 0, done.stdout + done.stderr
    assert packer(["verify", str(tmp_path / "run/evidence_pack"), "--strict"]) == 0
    assert "PASS" in capsys.readouterr().out
