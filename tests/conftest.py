"""A small real run that is made once; tests copy and attack its pack."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
import hypothesis
import pytest
from invarlock.packer.trust.keys import SigningKey, load_signing_key, make_signing_key, write_key_pair
from packs import seal
from processes import ROOT, SMALL, run_pytest, succeed


@dataclass(frozen=True)
class RealRun:
    """The run directory, its pack and the key that signed it."""

    directory: Path
    pack: Path
    key_path: Path

    @property
    def key(self) -> SigningKey:
        return load_signing_key(self.key_path)


# xdist's workers and the processes that they start share the cores. PyTorch would start one thread per core in each of
# them. These threads wait for each other in busy loops, which makes all of them several times slower on a busy machine.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A process that a shell starts in the background ignores SIGINT, and its children inherit that. Tests send SIGINT to
# their children, so restore the default handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline, because the time of an example depends on the load of the machine.
hypothesis.settings.register_profile("any_machine", deadline=None)
hypothesis.settings.load_profile("any_machine")

MakeFolder = Callable[[str, Callable[[Path], object]], Path]
MakeRun = Callable[..., RealRun]


@pytest.fixture(scope="session")
def folder_made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MakeFolder:
    """Return a function that fills a folder once for all workers: the first worker fills it and the others wait.

    A fixture of a module is made again whenever a worker comes back to the module, and by each worker.

    If ``TESTS_KEEP_RUNS_IN`` names a folder, these folders are kept there and later sessions reuse them.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    if "TESTS_KEEP_RUNS_IN" in os.environ:
        shared = Path(os.environ["TESTS_KEEP_RUNS_IN"])

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = shared / f"made_{name}"
        with filelock.FileLock(f"{folder}.lock"):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # left by a session that was killed
                folder.mkdir()
                fill(folder)
                (folder / "done").touch()
        return folder

    return make


@pytest.fixture(scope="session")
def made_once(folder_made_once: MakeFolder) -> MakeRun:
    """Return a function that makes a run once for all workers."""

    def make(name: str, scenarios: str, *options: str, null_runs: int = 0) -> RealRun:
        folder = folder_made_once(name, lambda folder: make_run(folder, scenarios, *options, null_runs=null_runs))
        return RealRun(folder / "run", folder / "run" / "evidence_pack", folder / "maker.pem")

    return make


@pytest.fixture(scope="session")
def real_run(made_once: MakeRun) -> RealRun:
    """Three cases on one model: a clean one, a destructive edit and a fault."""
    return made_once("real", "noop or prune_50 or nan_injection", null_runs=2)


@pytest.fixture(scope="session")
def probed_run(made_once: MakeRun) -> RealRun:
    """Two faults whose scenarios use probes."""
    return made_once("probed", "rmt_norm_noise or ve_mlp_scale_skew")


@pytest.fixture(scope="session")
def deployed_run(made_once: MakeRun) -> RealRun:
    """A run with one deployable subject."""
    return made_once("deployed", "quant_8bit_deployable", "-m", "deployable")


@pytest.fixture(scope="session")
def swept_run(made_once: MakeRun) -> RealRun:
    """Three points of the guard-value sweep: two faults and a control."""
    chosen = "guard_value_spectral_factor_1.07 or guard_value_variance_factor_0.95 or guard_value_control_noop"
    return made_once("swept", chosen, "-m", "guard_value", null_runs=2)


def make_run(folder: Path, scenarios: str, *options: str, null_runs: int) -> None:
    """Run some scenarios of one model, with a preset from ``null_runs`` null runs, and sign the pack."""
    write_key_pair(folder / "maker", make_signing_key())
    given = (ROOT / "suites", "-q", "-k", f"mistral and ({scenarios})", "--output-dir", folder / "run")
    key = ("--signing-key", folder / "maker.pem")
    done = succeed(run_pytest(*given, *key, *options, env={**SMALL, "DRIFT_CALIBRATION_RUNS": str(null_runs)}))
    (folder / "output.txt").write_text(done.stdout)


@pytest.fixture
def pack(real_run: RealRun, tmp_path: Path) -> Path:
    """A copy of the real pack that a test may change."""
    target = tmp_path / "pack"
    shutil.copytree(real_run.pack, target)
    return target


@pytest.fixture
def run(real_run: RealRun, tmp_path: Path) -> Path:
    """A copy of the real run's files that a test may change."""
    target = tmp_path / "run"
    shutil.copytree(real_run.directory, target, ignore=shutil.ignore_patterns("evidence_pack", "models"))
    return target


Reseal = Callable[[Path], None]


@pytest.fixture
def reseal(real_run: RealRun) -> Reseal:
    """Return a function that reseals a changed pack as its maker could: digests, checksums and signature."""

    return lambda pack: seal(pack, real_run.key)
