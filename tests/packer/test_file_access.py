"""Checks of mode and owner that show who else may change a trust store or read a private key."""

import os
from pathlib import Path

import pytest
from invarlock.packer.trust.editing import add_signer
from invarlock.packer.trust.file_access import check_nobody_else_writes, key_warnings, store_warnings
from invarlock.packer.trust.signers import TrustedSigner

from invarlock.errors import UsageError

SIGNER = f"sha256:{'a' * 64}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("[]")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("mode", "store", "key", "who"),
    [
        (0o600, [], [], ""),
        (0o640, [], ["chmod 600"], "its group may read"),
        (0o604, [], ["chmod 600"], "machine may read"),
        (0o620, ["chmod g-w"], ["chmod g-w"], "its group may change"),
        (0o660, ["chmod g-w"], ["chmod g-w", "chmod 600"], "its group may"),
        (0o711, [], [], ""),
    ],
)
def test_access_by_others_is_a_warning_and_nothing_else_is(
    mode: int, store: list[str], key: list[str], who: str, path: Path
) -> None:
    path.chmod(mode)

    for warnings, commands in ((store_warnings(path), store), (key_warnings(path), key)):
        assert len(warnings) == len(commands)
        for line, command in zip(warnings, commands, strict=True):
            assert line.startswith(f"{path}: ")
            assert line.endswith(f"{command} {path}")
            assert f"(mode {mode:04o})" in line
            assert who in line
    check_nobody_else_writes(path)


def test_a_file_of_another_user_is_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)

    (line,) = store_warnings(path)
    assert f"(uid {path.stat().st_uid})" in line
    assert key_warnings(path) == [line]


def test_a_file_of_root_is_no_warning_to_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_root = path
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    else:
        of_root = Path("/etc/passwd")

    assert of_root.stat().st_uid == 0
    assert store_warnings(of_root) == []


def test_a_missing_file_has_no_owner(tmp_path: Path) -> None:
    assert store_warnings(tmp_path / "none") == []
    assert key_warnings(tmp_path / "none") == []
    check_nobody_else_writes(tmp_path / "none")


def test_a_store_that_everybody_may_write_is_not_edited(path: Path) -> None:
    path.chmod(0o666)

    with pytest.raises(UsageError, match="mode 0666"):
        add_signer(path, TrustedSigner(SIGNER))

    assert path.read_text() == "[]"
