"""One small real run, made once, whose pack the tests copy and attack."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.checksums import CONTROL_FILES, write_checksums
from invarlock.packer.keys import SigningKey, load_signing_key, make_signing_key, write_key_pair
from invarlock.packer.signature import sign_manifest

from invarlock.jsonio import dump_json

ROOT = Path(__file__).parents[2]
SMALL = {"INVARLOCK_PREVIEW_WINDOWS": "8", "INVARLOCK_FINAL_WINDOWS": "16", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class RealRun:
    """The run directory, its pack and the key that signed it."""

    directory: Path
    pack: Path
    key_path: Path

    @property
    def key(self) -> SigningKey:
        return load_signing_key(self.key_path)


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """Three cases on one model: a clean one, a destructive edit and a fault."""
    folder = tmp_path_factory.mktemp("real")
    write_key_pair(folder / "maker", make_signing_key())
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PACK_", "INVARLOCK_", "PYTEST_"))
    }
    command = [sys.executable, "-m", "pytest", str(ROOT / "suites"), "-q", "-p", "no:cacheprovider"]
    command += ["-k", "mistral and (noop or prune_50 or nan_injection)", "--output-dir", str(folder / "run")]
    command += ["--signing-key", str(folder / "maker.pem")]
    done = subprocess.run(command, cwd=ROOT, env={**clean, **SMALL}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return RealRun(folder / "run", folder / "run" / "evidence_pack", folder / "maker.pem")


@pytest.fixture
def pack(real_run: RealRun, tmp_path: Path) -> Path:
    """A copy of the real pack that a test may change."""
    target = tmp_path / "pack"
    shutil.copytree(real_run.pack, target)
    return target


Reseal = Callable[[Path], None]


@pytest.fixture
def reseal(real_run: RealRun) -> Reseal:
    """Return a function that seals a changed pack again, as its maker could: digests, checksums, signature."""

    def seal(pack: Path) -> None:
        for report in pack.glob("reports/**/evaluation.report.json"):
            sidecar = report.with_name("runtime.manifest.json")
            document = json.loads(sidecar.read_bytes())
            document["report"]["sha256"] = sha256(report)
            sidecar.write_bytes(dump_json(document))
        digests = {
            str(path.relative_to(pack)): sha256(path)
            for path in pack.rglob("*")
            if path.is_file() and str(path.relative_to(pack)) not in CONTROL_FILES
        }
        (pack / "checksums.sha256").write_bytes(write_checksums(digests))
        manifest = json.loads((pack / "manifest.json").read_bytes())
        for row in references(manifest):
            row["digest"] = f"sha256:{digests[row['path']]}"
        manifest["checksums_sha256_digest"] = sha256(pack / "checksums.sha256")
        sealed = dump_json(manifest)
        (pack / "manifest.json").write_bytes(sealed)
        (pack / "manifest.signature.json").write_bytes(dump_json(sign_manifest(sealed, real_run.key)))

    return seal


def references(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every object of a manifest that names a path and its digest."""
    rows = [manifest["subject"], manifest["environment"], manifest["invocation"].get("config_source", {})]
    rows += [*manifest["materials"], *manifest["verification_baselines"]]
    return [row for row in rows if "path" in row]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
