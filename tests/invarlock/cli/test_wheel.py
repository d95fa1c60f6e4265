"""A wheel on its own: without a checkout, the suites run from any folder."""

import json
import site
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from processes import ROOT, SECONDS, SMALL, clean

MAX_WHEEL_BYTES = 8_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # building leaves folders next to the sources, so it is done on a copy
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_has_the_suites_and_says_where_they_come_from(wheel: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = subprocess.run(["git", "ls-files", "suites"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("invarlock/suite/")}
        source = json.loads(archive.read("invarlock/suite/source_repo.json"))

    wanted = {f"invarlock/suite/{name.removeprefix('suites/')}" for name in tracked.splitlines()}
    assert names == {*wanted, "invarlock/suite/source_repo.json"} - {"invarlock/suite/embedded/train.py"}
    assert (source["commit"], source["dirty"]) == (commit.strip(), False)
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


@pytest.mark.slow
def test_an_installed_wheel_runs_a_case_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    venv.create(environment)
    packages = next(environment.glob("lib/python3*/site-packages"))
    with ZipFile(wheel) as archive:
        archive.extractall(packages)
    # the libraries of this environment, but none of its hooks for editable installs
    shared = "\n".join(folder for folder in (*site.getsitepackages(), *map(str, _added_folders())))
    (packages / "shared.pth").write_text(shared + "\n")

    python = str(environment / "bin" / "python")
    found = subprocess.run(
        [python, "-c", "import invarlock; print(invarlock.__file__)"], capture_output=True, text=True, cwd=empty
    )
    done = subprocess.run(
        [python, "-m", "invarlock", "run", "-m", "smoke", "-k", "noop_control and mistral", "--unsigned"],
        capture_output=True, text=True, cwd=empty, env=clean(SMALL), timeout=SECONDS,
    )  # fmt: skip

    assert found.stdout.startswith(str(packages))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    packs = list(empty.glob("evidence_pack_runs/*/evidence_pack"))
    assert len(packs) == 1
    verified = subprocess.run([python, "-m", "invarlock", "verify", "--allow-unsigned", str(packs[0])], cwd=empty)
    assert verified.returncode == 0
    assert {path.name for path in empty.iterdir()} == {"evidence_pack_runs", ".pytest_cache"}


def _added_folders() -> list[Path]:
    """Return the folders that ``.pth`` files of this environment add."""
    own = {Path(folder).resolve() for folder in site.getsitepackages()}
    added = [Path(entry).resolve() for entry in sys.path if "site-packages" in entry]
    return [folder for folder in added if folder not in own]
