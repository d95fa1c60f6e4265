"""A checkpoint is named after its folder, or after its repository in the hub's cache."""

from pathlib import Path

import pytest

from invarlock.checkpoints.folder_names import MAX_NAME_CHARACTERS, checkpoint_name


def test_a_snapshot_in_the_hubs_cache_has_the_name_of_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--a-model--b" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (tmp_path / "link").symlink_to(snapshot)

    assert checkpoint_name(snapshot) == checkpoint_name(tmp_path / "link") == "org/a-model--b"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("mine/../yours", "yours"),
        ("snapshots/mine", "mine"),
        ("other--org/snapshots/mine", "mine"),
        ("a\nb\u202e", "a\\nb\\u202e"),
        ("x" * 250, "x" * MAX_NAME_CHARACTERS),
    ],
)
def test_other_folders_have_their_own_name_on_one_line(tmp_path: Path, folder: str, name: str) -> None:
    assert checkpoint_name(tmp_path / folder) == name


def test_the_current_folder_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")

    assert (checkpoint_name(Path()), checkpoint_name(Path("/"))) == ("mine", "/")
