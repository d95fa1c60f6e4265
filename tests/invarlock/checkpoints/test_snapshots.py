"""Snapshots of pinned models: the right bytes, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from invarlock.checkpoints.digests import digest_checkpoint, digest_file
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.errors import CheckpointError

TinyModels = Callable[..., Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_a_snapshot_has_the_bytes_of_the_model(tiny_model: TinyModels, tmp_path: Path, shard_bytes: int) -> None:
    model = Path(shutil.copytree(tiny_model("llama", shard_bytes), tmp_path / "model"))
    (model / "README.md").write_text("no part of the checkpoint")
    expected = {name: data for name, data in contents(model).items() if name != "README.md"}

    digest = make_snapshot(model, None, tmp_path / "runs" / "snapshot", digest_checkpoint(model))

    assert contents(tmp_path / "runs" / "snapshot") == expected
    assert digest == digest_checkpoint(model) == digest_checkpoint(tmp_path / "runs" / "snapshot")
    assert (tmp_path / "runs" / "snapshot" / "model.safetensors").exists() == (shard_bytes == 1 << 30)


def test_a_snapshot_shares_no_bytes_with_the_model_even_behind_links(tiny_model: TinyModels, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in tiny_model("llama").iterdir():
        (cache / path.name).symlink_to(path)

    make_snapshot(cache, None, tmp_path / "snapshot", None)

    for path in (tmp_path / "snapshot").iterdir():
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1


def test_a_snapshot_of_links_points_at_the_files_themselves_and_has_the_same_digest(
    tiny_model: TinyModels, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in tiny_model("llama").iterdir():
        (cache / path.name).symlink_to(path)

    digest = make_snapshot(cache, None, tmp_path / "snapshot", None, "snapshot_symlink")

    assert {path.readlink() for path in (tmp_path / "snapshot").iterdir()} == set(tiny_model("llama").iterdir())
    assert digest == digest_checkpoint(tiny_model("llama"))


def test_code_is_in_a_snapshot_only_as_it_is_pinned(tiny_model: TinyModels, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
    (model / "modeling_own.py").write_text("pass\n")
    pinned = {"modeling_own.py": digest_file(model / "modeling_own.py")}

    digest = make_snapshot(model, None, tmp_path / "with", None, code=pinned)
    make_snapshot(model, None, tmp_path / "without", None)

    assert digest == digest_checkpoint(model)
    assert contents(tmp_path / "with").keys() - contents(tmp_path / "without").keys() == {"modeling_own.py"}
    (model / "modeling_own.py").write_text("raise SystemExit\n")
    with pytest.raises(CheckpointError, match=r"modeling_own\.py: differs from the pinned file"):
        make_snapshot(model, None, tmp_path / "changed", None, code=pinned)
    assert not (tmp_path / "changed").exists()


def test_the_tokenizer_comes_from_its_own_folder(tiny_model: TinyModels, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("a\nb\n")
    (tokenizer / "model.safetensors").write_text("no part of the tokenizer")

    make_snapshot(tiny_model("llama"), tokenizer, tmp_path / "snapshot", None)

    model = contents(tiny_model("llama"))
    del model["tokenizer.json"]
    assert contents(tmp_path / "snapshot") == {**model, "vocab.txt": b"a\nb\n"}


def test_other_bytes_than_the_pinned_ones_leave_nothing(tiny_model: TinyModels, tmp_path: Path) -> None:
    pin = "sha256:" + "0" * 64

    with pytest.raises(CheckpointError, match=f"its digest is sha256:[0-9a-f]{{64}}, expected {pin}; fetch the pinned"):
        make_snapshot(tiny_model("llama"), None, tmp_path / "snapshot", pin)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pinned", [True, False])
def test_an_existing_snapshot_is_kept(tiny_model: TinyModels, tmp_path: Path, pinned: bool) -> None:
    model, snapshot = tiny_model("llama"), tmp_path / "snapshot"
    digest = make_snapshot(model, None, snapshot, None)
    before = {path.name: path.stat().st_ino for path in snapshot.iterdir()}

    assert make_snapshot(model, None, snapshot, digest if pinned else None) == digest
    assert {path.name: path.stat().st_ino for path in snapshot.iterdir()} == before

    (snapshot / "tokenizer.json").write_text("[]\n")
    with pytest.raises(CheckpointError, match=f"snapshot: its digest is .*, expected {digest}; remove it"):
        make_snapshot(model, None, snapshot, digest if pinned else None)


def test_a_broken_model_or_tokenizer_leaves_nothing(tiny_model: TinyModels, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1])

    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        make_snapshot(model, None, tmp_path / "snapshot", None)
    with pytest.raises(CheckpointError, match="no tokenizer files; point at"):
        make_snapshot(tiny_model("llama"), tmp_path, tmp_path / "snapshot", None)

    assert [path.name for path in tmp_path.iterdir()] == ["model"]
