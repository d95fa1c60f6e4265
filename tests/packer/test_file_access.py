"""Who else may change a trust store or read a private key, by mode and by owner."""

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
    ("mode", "store", "key"),
    [
        (0o600, [], []),
        (0o640, [], ["its group may read this private key (mode 0640); chmod 600"]),
        (0o604, [], ["everybody on this machine may read this private key (mode 0604); chmod 600"]),
        (0o620, ["its group may change it (mode 0620); chmod g-w"], ["its group may change it (mode 0620); chmod g-w"]),
        (0o711, [], []),
    ],
)
def test_what_a_mode_allows_others_is_a_warning_and_nothing_else_is(
    mode: int, store: list[str], key: list[str], path: Path
) -> None:
    path.chmod(mode)

    assert store_warnings(path) == [f"{path}: {words} {path}" for words in store]
    assert key_warnings(path) == [f"{path}: {words} {path}" for words in key]
    check_nobody_else_writes(path)


def test_a_file_of_another_user_is_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(path, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)

    words = [f"{path}: belongs to another user (uid {path.stat().st_uid}), who may change it"]
    assert store_warnings(path) == words
    assert key_warnings(path) == words


def test_a_file_that_is_not_there_is_nobodys(tmp_path: Path) -> None:
    assert store_warnings(tmp_path / "none") == []
    assert key_warnings(tmp_path / "none") == []
    check_nobody_else_writes(tmp_path / "none")


def test_a_store_that_everybody_may_write_is_not_edited(path: Path) -> None:
    path.chmod(0o666)

    with pytest.raises(UsageError, match="everybody on this machine may write it"):
        add_signer(path, TrustedSigner(SIGNER))

    assert path.read_text() == "[]"
