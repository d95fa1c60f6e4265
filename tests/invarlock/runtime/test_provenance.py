import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
from processes import python, succeed

from invarlock.documents.provenance import Graphics
from invarlock.errors import DocumentError
from invarlock.jsonio import read_json
from invarlock.runtime import provenance
from invarlock.runtime.determinism import determinism_switches
from invarlock.runtime.graphics import graphics
from invarlock.runtime.handover import code_digest
from invarlock.runtime.provenance import environment, source_of, source_repository

ROOT = Path(__file__).parents[3]
NO_GPUS: Graphics = {"driver": None, "driver_cuda": None, "gpus": []}


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Jane", "-c", "user.email=jane@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_repository_is_named_by_its_commit_without_credentials(tmp_path: Path) -> None:
    git(tmp_path, "init", "-b", "trunk")
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "remote", "add", "origin", "https://jane:secret@example.org/team/repo.git")

    clean = source_repository(tmp_path)
    (tmp_path / "a.txt").write_text("b")
    dirty = source_repository(tmp_path)

    assert clean is not None
    assert dirty is not None
    assert len(clean["commit"]) == 40
    assert (clean["branch"], clean["dirty"], clean["uri"]) == ("trunk", False, "https://example.org/team/repo.git")
    assert (dirty["dirty"], dirty["commit"]) == (True, clean["commit"])


def test_an_address_that_is_a_path_of_the_machine_is_left_out(tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    git(tmp_path, "remote", "add", "origin", "/home/jane/repo")

    repository = source_repository(tmp_path)

    assert repository is not None
    assert repository["uri"] is None
    git(tmp_path, "remote", "set-url", "origin", "git@example.org:team/repo.git")
    assert source_repository(tmp_path)["uri"] == "example.org:team/repo.git"  # type: ignore[index]  # it is one


def test_a_folder_outside_of_any_repository_has_no_source(tmp_path: Path) -> None:
    assert source_repository(tmp_path) is None
    assert source_of(tmp_path) is None


def test_a_copy_without_git_is_named_by_the_marker_file_that_its_checkout_made(tmp_path: Path) -> None:
    checkout, copy = tmp_path / "checkout", tmp_path / "copy"
    (copy / "suites").mkdir(parents=True)
    checkout.mkdir()
    git(checkout, "init", "-b", "trunk")
    git(checkout, "commit", "--allow-empty", "-m", "first")
    git(checkout, "checkout", "--detach")

    make = ("-m", "invarlock.runtime.provenance", copy / "source_repo.json")
    made = python(*make, cwd=checkout)
    nowhere = python(*make, cwd=tmp_path)

    assert (made.returncode, made.stderr) == (0, "")
    assert source_of(copy / "suites") == source_repository(checkout)
    assert read_json(copy / "source_repo.json")["branch"] is None
    assert nowhere.returncode == 3
    assert "not a git repository" in nowhere.stderr


def test_a_marker_file_that_says_no_commit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source_repo.json").write_text('{"schema": "invarlock/source-repo-v1", "commit": "main"}')

    with pytest.raises(DocumentError, match=r"source_repo\.json"):
        source_of(tmp_path)


def test_the_environment_names_versions_and_neither_host_nor_user() -> None:
    document = environment(determinism_switches("strict"), graphics([]))

    assert document["libraries"]["torch"]
    assert set(document["platform"]) == {"system", "release", "machine"}
    assert document["graphics"] == NO_GPUS
    text = json.dumps(document)
    assert str(Path.home()) not in text
    assert platform.node() not in text


def test_the_build_of_pytorch_is_read_without_importing_it() -> None:
    import torch

    document = environment(determinism_switches("throughput"), NO_GPUS)

    assert document["torch"] == {"cuda": torch.version.cuda, "commit": torch.version.git_version}


@pytest.mark.slow
def test_the_switches_recorded_are_those_that_a_process_has() -> None:
    code = """
import json, torch
from invarlock.runtime.determinism import apply_determinism, determinism_switches
apply_determinism("strict", 4)
print(json.dumps([determinism_switches("strict"), {
    "mode": "strict",
    "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    "cudnn_benchmark": torch.backends.cudnn.benchmark,
    "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
    "cublas_workspace": __import__("os").environ["CUBLAS_WORKSPACE_CONFIG"],
    "one_thread": torch.get_num_threads() == 1,
}]))
"""
    done = succeed(python("-c", code))

    recorded, real = json.loads(done.stdout)
    assert recorded == real


def test_gpus_are_named_by_model_and_memory_and_not_by_id(tmp_path: Path) -> None:
    inventory = tmp_path / "gpus.json"
    inventory.write_text(
        json.dumps(
            [
                {"uuid": "GPU-1", "name": "NVIDIA H100 80GB HBM3", "total": 85899345920, "free": 1},
                {"uuid": "GPU-2", "name": "NVIDIA A10G", "total": 24159191040, "free": 1},
            ]
        )
    )
    code = "import json; from invarlock.runtime.graphics import graphics; print(json.dumps(graphics(['GPU-2'])))"
    variables = {"FAKE_NVML": str(inventory), "PYTHONPATH": str(ROOT / "tests" / "support" / "fake_nvml")}
    done = succeed(python("-c", code, env={**os.environ, **variables}))

    assert json.loads(done.stdout) == {
        "driver": "570.86.15",
        "driver_cuda": "12.8",
        "gpus": [{"name": "NVIDIA A10G", "memory_bytes": 24159191040}],
    }


def test_the_product_is_named_by_its_code_and_where_it_runs_from_a_checkout_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    package = checkout / "invarlock/runtime"
    package.mkdir(parents=True)
    for path in (checkout / "invarlock/__init__.py", package / "provenance.py"):
        path.write_text("")
    git(checkout, "init")
    git(checkout, "commit", "--allow-empty", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))

    untracked = provenance.product()
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "second")
    tracked = provenance.product()

    assert untracked["code"] == tracked["code"] == code_digest()
    assert (untracked["commit"], untracked["dirty"]) == (None, None)
    assert (len(tracked["commit"] or ""), tracked["dirty"]) == (40, False)
