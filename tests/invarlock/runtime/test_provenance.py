import json
import subprocess
from pathlib import Path

from invarlock.runtime.provenance import environment, source_repository


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


def test_the_environment_names_versions_and_neither_host_nor_user() -> None:
    document = environment()

    assert document["libraries"]["torch"]
    assert set(document["platform"]) == {"system", "release", "machine"}
    assert str(Path.home()) not in json.dumps(document)
