"""Digests against values worked out by hand, and the files that they cover."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from invarlock.checkpoints.digests import digest_checkpoint, digest_file, tokenizer_digest
from invarlock.errors import CheckpointError


def make_folder(folder: Path) -> Path:
    (folder / "config.json").write_bytes(b"{}\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_bytes(b"tokens")
    return folder


def test_a_known_answer(tmp_path: Path) -> None:
    # printf '{}\n' > config.json; printf weights > model.safetensors; printf tokens > tokenizer.json
    # sha256sum config.json model.safetensors tokenizer.json | LC_ALL=C sort | sha256sum
    expected = "8176c6f824088fe476d628cdd2fa5442edaeca84dd4772d120381df91f7d37f8"

    assert digest_checkpoint(make_folder(tmp_path)) == f"sha256:{expected}"


def test_a_tokenizer_is_digested_alone_with_its_chat_templates(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "chat_template.jinja").write_bytes(b"{{ messages }}")

    lines = sorted(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for name, data in {"tokenizer.json": b"tokens", "chat_template.jinja": b"{{ messages }}"}.items()
    )
    assert tokenizer_digest(folder) == f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_every_file_of_the_checkpoint_counts(tmp_path: Path, name: str) -> None:
    before = digest_checkpoint(make_folder(tmp_path))

    (tmp_path / name).write_bytes(b"other")

    assert digest_checkpoint(tmp_path) != before


def test_other_files_do_not_count(tmp_path: Path) -> None:
    before = digest_checkpoint(make_folder(tmp_path))

    (tmp_path / "README.md").write_bytes(b"read me")
    (tmp_path / "consolidated.safetensors").write_bytes(b"the same weights in another layout")
    (tmp_path / "model.safetensors.index.json").write_bytes(b"stale: the single file wins")

    assert digest_checkpoint(tmp_path) == before


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: no such file; point at"):
        digest_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer files; point at"):
        tokenizer_digest(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent: cannot be read \(No such file or directory\); check"):
        digest_file(tmp_path / "absent")
