"""Rewriting checkpoints: what changes, what is linked, and what is left when it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import python, succeed
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.rewriting import Replacement, Rewrite, count_nonfinite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
from invarlock.errors import CheckpointError

TinyModels = Callable[..., Path]

UP = "model.layers.1.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for shard in read_checkpoint(folder).shards for name, t in load_file(folder / shard).items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def doubled(*names: str) -> Rewrite:
    return Rewrite({name: Replacement(name, lambda weight: weight * 2) for name in names})


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_only_the_named_tensors_change(tiny_model: TinyModels, tmp_path: Path, shard_bytes: int, dtype: str) -> None:
    source = tiny_model("llama", shard_bytes, dtype)
    before = tensors(source)

    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": doubled(UP)})

    assert same(tensors(tmp_path / "subject"), {**before, UP: before[UP] * 2})
    assert same(tensors(source), before)
    for shard in read_checkpoint(source).shards:
        with safe_open(tmp_path / "subject" / shard, "pt") as made:
            assert made.metadata() == {"format": "pt"}


def test_shards_and_files_without_a_change_are_links(tiny_model: TinyModels, tmp_path: Path) -> None:
    source = tiny_model("llama", 20_000)
    changed_shard = read_checkpoint(source).entries[UP].shard

    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": doubled(UP)})

    before, after = inodes(source), inodes(tmp_path / "subject")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {changed_shard}


def test_a_rewrite_of_nothing_is_the_same_checkpoint(tiny_model: TinyModels, tmp_path: Path) -> None:
    source = tiny_model("llama", 20_000)

    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": Rewrite()})

    assert inodes(tmp_path / "subject") == inodes(source)
    assert digest_checkpoint(tmp_path / "subject") == digest_checkpoint(source)


def test_a_link_leads_to_the_file_behind_a_symbolic_link(tiny_model: TinyModels, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in tiny_model("llama").iterdir():
        (source / path.name).symlink_to(path)

    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": Rewrite()})

    assert not any(path.is_symlink() for path in (tmp_path / "subject").iterdir())
    assert inodes(tmp_path / "subject") == inodes(tiny_model("llama"))


def test_where_links_cannot_be_made_files_are_copied(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = tiny_model("llama", 20_000)

    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": doubled(UP)})

    assert not set(inodes(source).values()) & set(inodes(tmp_path / "subject").values())
    before = tensors(source)
    assert same(tensors(tmp_path / "subject"), {**before, UP: before[UP] * 2})


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_tensors_are_added_dropped_and_grown(tiny_model: TinyModels, tmp_path: Path, shard_bytes: int) -> None:
    source = tiny_model("llama", shard_bytes)
    before = tensors(source)
    dropped = frozenset(name for name in before if name.startswith("model.layers.1."))
    rewrite = Rewrite(
        {
            "added.weight": Replacement(EMBEDDING, lambda weight: -weight),
            HEAD: Replacement(EMBEDDING, lambda weight: weight + 1),
            EMBEDDING: Replacement(EMBEDDING, lambda weight: torch.cat([weight, weight[:8]]), (72, 32)),
        },
        dropped,
        {"vocab_size": 72},
    )

    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": rewrite})

    embedding = before[EMBEDDING]
    expected = {name: tensor for name, tensor in before.items() if name not in dropped}
    expected |= {
        "added.weight": -embedding,
        HEAD: embedding + 1,
        EMBEDDING: torch.cat([embedding, embedding[:8]]),
    }
    assert same(tensors(tmp_path / "subject"), expected)
    config = json.loads((source / "config.json").read_text())
    assert json.loads((tmp_path / "subject" / "config.json").read_text()) == {**config, "vocab_size": 72}
    if shard_bytes == 20_000:
        index = json.loads((tmp_path / "subject" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in expected.values())
        assert index["metadata"]["total_parameters"] == sum(tensor.numel() for tensor in expected.values())


def test_tensors_of_several_types_stay_aligned(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llama"}')
    made = {
        "a": torch.ones(4, dtype=torch.int8),
        "b": torch.ones(3, dtype=torch.bfloat16),
        "c": torch.arange(3.0),
        "d": torch.tensor(True),
        "e": torch.zeros(0, 4),
        "f": torch.ones(2).to(torch.float8_e4m3fn),
    }
    save_file(made, source / "model.safetensors")

    added = Rewrite(
        {"g": Replacement("c", lambda weight: weight + 1), "h": Replacement("a", lambda weight: weight + 1)}
    )
    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": added})

    found = load_file(tmp_path / "subject" / "model.safetensors")
    data = (tmp_path / "subject" / "model.safetensors").read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    assert header_bytes % 8 == 0
    for name, row in json.loads(data[8 : 8 + header_bytes]).items():
        assert row["data_offsets"][0] % found[name].element_size() == 0, name
    expected = {**made, "g": torch.arange(1.0, 4.0), "h": torch.full((4,), 2, dtype=torch.int8)}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].float(), tensor.float())


def test_several_targets_read_every_tensor_once(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_model("llama", 20_000)
    before = tensors(source)
    checked: list[int] = []

    def count(tensor: torch.Tensor) -> int:
        checked.append(tensor.numel())
        return count_nonfinite(tensor)

    monkeypatch.setattr("invarlock.checkpoints.rewriting.count_nonfinite", count)
    targets = {tmp_path / name: doubled(name) for name in (UP, EMBEDDING)}
    rewrite_checkpoint(read_checkpoint(source), {**targets, tmp_path / "none": Rewrite()})

    assert sorted(checked) == sorted(tensor.numel() for tensor in before.values())
    for name in (UP, EMBEDDING):
        assert same(tensors(tmp_path / name), {**before, name: before[name] * 2})
    assert same(tensors(tmp_path / "none"), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_source_that_is_not_finite_is_refused(tmp_path: Path, value: float, dtype: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llama"}')
    weight = torch.ones(5, 5, dtype=getattr(torch, dtype))
    weight[3, 4] = value
    save_file({"a": torch.ones(2), "b": weight}, source / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"model\.safetensors: 1 of 25 elements of tensor 'b' are not finite; "):
        rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": Rewrite()})

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_failure_leaves_no_target_and_no_staging(tiny_model: TinyModels, tmp_path: Path) -> None:
    source = read_checkpoint(tiny_model("llama", 20_000))

    def fail(weight: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewrite_checkpoint(
            source, {tmp_path / "one": doubled(EMBEDDING), tmp_path / "two": Rewrite({UP: Replacement(UP, fail)})}
        )
    with pytest.raises(ValueError, match="declared F32"):
        rewrite_checkpoint(source, {tmp_path / "one": Rewrite({UP: Replacement(UP, lambda weight: weight[1:])})})
    with pytest.raises(ValueError, match="declared F32"):
        rewrite_checkpoint(source, {tmp_path / "one": Rewrite({UP: Replacement(UP, lambda weight: weight.half())})})

    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_not_touched(tiny_model: TinyModels, tmp_path: Path) -> None:
    (tmp_path / "subject").mkdir()

    with pytest.raises(CheckpointError, match="subject: is there already; remove it"):
        rewrite_checkpoint(
            read_checkpoint(tiny_model("llama")), {tmp_path / "other": Rewrite(), tmp_path / "subject": Rewrite()}
        )

    assert [path.name for path in tmp_path.iterdir()] == ["subject"]
    assert list((tmp_path / "subject").iterdir()) == []


def test_when_the_last_rename_fails_the_first_target_goes_too(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_on_two(self: Path, target: Path) -> Path:
        if target.name == "two":
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_two)

    with pytest.raises(CheckpointError, match="two: No space left on device; check disk space"):
        rewrite_checkpoint(
            read_checkpoint(tiny_model("llama")), {tmp_path / "one": Rewrite(), tmp_path / "two": Rewrite()}
        )

    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensor_is_named(tiny_model: TinyModels, tmp_path: Path) -> None:
    for rewrite in (doubled("absent"), Rewrite(drop=frozenset({"absent"}))):
        with pytest.raises(CheckpointError, match="no tensor 'absent'; name one"):
            rewrite_checkpoint(read_checkpoint(tiny_model("llama")), {tmp_path / "subject": rewrite})


KILLED = """
import os, signal, sys
from pathlib import Path
from invarlock.checkpoints.rewriting import Replacement, Rewrite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
name = "model.layers.1.mlp.up_proj.weight"
kill = Rewrite({name: Replacement(name, lambda weight: os.kill(os.getpid(), signal.SIGKILL))})
rewrite_checkpoint(read_checkpoint(Path(sys.argv[1])), {Path(sys.argv[2]): kill})
"""


def test_a_killed_run_leaves_only_a_hidden_folder(tiny_model: TinyModels, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_model("llama", 20_000), tmp_path / "source"))
    before = digest_checkpoint(source)

    killed = python("-c", KILLED, source, tmp_path / "subject", seconds=60)

    assert killed.returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.iterdir() if path != source]
    assert len(left) == 1
    assert left[0].startswith(".subject.staging-")
    assert digest_checkpoint(source) == before
    rewrite_checkpoint(read_checkpoint(source), {tmp_path / "subject": doubled(UP)})
    assert {path.name for path in tmp_path.iterdir()} == {"source", "subject"}


MEASURED = """
import resource, sys
from pathlib import Path
from invarlock.checkpoints.rewriting import Replacement, Rewrite, rewrite_checkpoint
from invarlock.checkpoints.safetensors_files import read_checkpoint
source = read_checkpoint(Path(sys.argv[1]))
one = Rewrite({"0": Replacement("0", lambda weight: weight * 2)})
rewrite_checkpoint(source, {Path(sys.argv[2], "warm"): one})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
every = Rewrite({name: Replacement(name, lambda weight: weight * 2) for name in source.entries})
rewrite_checkpoint(source, {Path(sys.argv[2], name): every for name in ("a", "b", "c")})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_is_a_shard_and_a_tensor_for_any_number_of_targets(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llama"}')
    tensor_bytes, tensors_a_shard = 8 << 20, 4
    weight_map: dict[str, str] = {}
    for shard in ("model-1.safetensors", "model-2.safetensors", "model-3.safetensors"):
        names = [str(len(weight_map) + i) for i in range(tensors_a_shard)]
        save_file({name: torch.ones(tensor_bytes // 4) for name in names}, source / shard)
        weight_map |= dict.fromkeys(names, shard)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    ran = succeed(python("-c", MEASURED, source, tmp_path, seconds=60))

    # Three targets of three shards: 288 MB are written. The warm-up mapped one shard and held one tensor already.
    assert int(ran.stdout) * 1024 < 2 * tensor_bytes


def test_a_shard_with_other_values_keeps_its_header(tiny_model: TinyModels, tmp_path: Path) -> None:
    source = tiny_model("llama")

    rewrite_checkpoint(
        read_checkpoint(source),
        {tmp_path / "same": Rewrite({UP: Replacement(UP, torch.clone)}), tmp_path / "other": doubled(UP)},
    )

    before = (source / "model.safetensors").read_bytes()
    header_bytes = 8 + int.from_bytes(before[:8], "little")
    after = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == before
    assert after[:header_bytes] == before[:header_bytes]
    assert after != before


def test_where_blocks_are_shared_only_changed_tensors_are_written(cloning_folder: Path, tmp_path: Path) -> None:
    source = cloning_folder / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llama"}')
    # a second copy of the large tensor has no room
    large = torch.randint(0, 255, (7_000_000,), dtype=torch.uint8)
    weights = {"a": torch.ones(1000), "large": large, "z": torch.ones(7)}
    save_file(weights, source / "model.safetensors")
    before = (source / "model.safetensors").read_bytes()

    for folder in (cloning_folder, tmp_path):
        rewrite_checkpoint(read_checkpoint(source), {folder / name: doubled("a", "z") for name in ("one", "two")})

    assert same(tensors(cloning_folder / "one"), {**weights, "a": weights["a"] * 2, "z": weights["z"] * 2})
    assert digest_checkpoint(cloning_folder / "one") == digest_checkpoint(tmp_path / "one")
    assert digest_checkpoint(cloning_folder / "two") == digest_checkpoint(tmp_path / "two")
    assert (source / "model.safetensors").read_bytes() == before
