"""Fixtures that run pytest on the suites as a user does, in a separate process."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
from gpu_inventory import Inventory
from processes import SMALL

from invarlock.jsonio import write_json
from invarlock.runtime.provenance import MARKER_NAME, source_repository

ROOT = Path(__file__).parents[3]
# Fixtures that start suites in separate processes, which takes seconds and often much longer.
STARTING = frozenset({"run_pytest", "undisturbed", "runs", "fetched"})
FAKE_NVML = ROOT / "tests" / "support" / "fake_nvml"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark the tests of this folder that start suites as slow."""
    for item in items:
        if item.path.parent == Path(__file__).parent and STARTING & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Ran:
    """A finished pytest process: its exit status, its output, and its run directory."""

    status: int
    output: str
    directory: Path

    @property
    def pack(self) -> Path:
        return self.directory / "evidence_pack"


RunPytest = Callable[..., Ran]


@pytest.fixture
def run_pytest(tmp_path: Path) -> RunPytest:
    """Return a function that runs pytest with some arguments, on our suites folder or on ``suites``."""

    def run(*arguments: str, suites: Path = ROOT / "suites", directory: Path | None = None, **variables: str) -> Ran:
        target = directory or tmp_path / "run"
        named = any(str(argument).startswith(str(suites)) for argument in arguments)
        given = [*arguments, *([] if named else [str(suites)]), "--output-dir", str(target)]
        if suites != ROOT / "suites":
            given += ["-p", "invarlock.harness.plugin", "--rootdir", str(suites.parent)]
        cwd = ROOT if suites == ROOT / "suites" else suites.parent
        # no presets, which have their own tests
        done = processes.run_pytest(*given, cwd=cwd, env={**SMALL, "DRIFT_CALIBRATION_RUNS": "0", **variables})
        return Ran(done.returncode, done.stdout + done.stderr, target)

    return run


@pytest.fixture
def own_suites(tmp_path: Path) -> Path:
    """Return a copy of the suites folder that a test may change."""
    folder = tmp_path / "project" / "suites"
    shutil.copytree(ROOT / "suites", folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = source_repository(ROOT)
    assert source is not None
    write_json(folder.parent / MARKER_NAME, source)
    return folder


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inventory:
    """Return a function that makes NVML list given GPUs, in this process and its children."""
    spec = importlib.util.spec_from_file_location("pynvml", FAKE_NVML / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # torch may have imported the real pynvml
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setenv("PYTHONPATH", str(FAKE_NVML))

    def give(gpus: Sequence[dict[str, Any]]) -> None:
        write_json(tmp_path / "gpus.json", list(gpus))
        monkeypatch.setenv("FAKE_NVML", str(tmp_path / "gpus.json"))

    return give
