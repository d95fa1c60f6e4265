"""Headers, whole and hostile, and what a checkpoint folder says about itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import python, succeed
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from invarlock.checkpoints.layout import weight_files
from invarlock.checkpoints.safetensors_files import MAX_HEADER_BYTES, read_checkpoint, read_header
from invarlock.errors import CheckpointError

TinyModels = Callable[..., Path]


def write_file(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def row(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def copy_model(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["float32", "bfloat16", "int8", "bool"])),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=40)
def test_a_header_is_what_safetensors_wrote(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, tuple[list[int], str]]
) -> None:
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    made = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in tensors.items()}
    save_file(made, path, metadata={"format": "pt"})

    entries, metadata = read_header(path)

    assert metadata == {"format": "pt"}
    assert {name: (entry.shape, entry.size_bytes) for name, entry in entries.items()} == {
        name: (tuple(tensor.shape), tensor.numel() * tensor.element_size()) for name, tensor in made.items()
    }


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        ({}, b"", 1 << 62, "a header of 4611686018427387904 bytes does not fit a file of 10"),
        ({}, b"", MAX_HEADER_BYTES + 1, "does not fit"),
        (b"{", b"", None, "safetensors header; fetch"),
        (b"[]", b"", None, "the header is not an object"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, b"", None, "nested deeper"),
        ({"a": 1}, b"", None, "'a' has not exactly dtype, shape and data_offsets"),
        ({"a": {**row(), "more": 1}}, bytes(8), None, "has not exactly"),
        ({"a": row(dtype="F4")}, bytes(8), None, "'a' has dtype 'F4'; use a checkpoint stored as one of F64, F32"),
        ({"a": row(dtype=["F32"])}, bytes(8), None, "has dtype"),
        ({"a": row(shape=[-2])}, bytes(8), None, "no sizes"),
        ({"a": row(shape=[True, 2])}, bytes(8), None, "no sizes"),
        ({"a": row(shape=[1] * 9 + [2])}, bytes(8), None, "no sizes"),
        ({"a": row(offsets=[0, 8, 8])}, bytes(8), None, "no sizes"),
        ({"a": row(shape=[1 << 62, 1 << 62])}, bytes(8), None, "has 8 bytes"),
        ({"a": row(offsets=[8, 0])}, bytes(8), None, "has -8 bytes"),
        ({"a": row(offsets=[4, 12])}, bytes(12), None, "'a' starts at byte 4, not at 0"),
        ({"a": row(), "b": row(offsets=[4, 12])}, bytes(12), None, "'b' starts at byte 4, not at 8"),
        ({"a": row()}, bytes(7), None, "describes 8 bytes of data, the file has 7"),
        ({"a": row()}, bytes(9), None, "describes 8 bytes of data, the file has 9"),
        (b'{"a":{},"a":{}}', b"", None, "'a' appears twice"),
        ({"__metadata__": {"format": 1}}, b"", None, "'__metadata__' is not a table of texts"),
    ],
)
def test_a_hostile_header_is_refused_naming_the_file(
    tmp_path: Path, header: Any, data: bytes, length: int | None, message: str
) -> None:
    path = write_file(tmp_path / "model.safetensors", header, data, length)

    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="fetch"):
            read_header(path)


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_a_checkpoint_has_the_tensors_of_its_shards(tiny_model: TinyModels, shard_bytes: int) -> None:
    folder = tiny_model("llama", shard_bytes)

    files = read_checkpoint(folder)

    assert (len(files.shards) > 1) == (shard_bytes == 20_000)
    expected = {name: (shard, t.shape) for shard in files.shards for name, t in load_file(folder / shard).items()}
    assert {name: (entry.shard, entry.shape) for name, entry in files.entries.items()} == expected
    assert files.total_parameters == sum(shape.numel() for _, shape in expected.values())
    assert {entry.dtype for entry in files.entries.values()} == {"F32"}
    assert files.with_role("head") == ("lm_head.weight",)


@pytest.mark.parametrize(
    ("architecture", "stated", "tied"),
    [("llama", None, False), ("gpt2", None, True), ("gpt2", False, False), ("llama", True, True)],
)
def test_a_config_without_the_field_ties_as_its_architecture_does(
    tiny_model: TinyModels, tmp_path: Path, architecture: str, stated: bool | None, tied: bool
) -> None:
    folder = copy_model(tiny_model(architecture), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(
        json.dumps({**config, **({"tie_word_embeddings": stated} if stated is not None else {})})
    )

    assert read_checkpoint(folder).tied is tied


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i["weight_map"].pop("model.norm.weight"),
        lambda i: i["weight_map"].update(more=i["weight_map"]["lm_head.weight"]),
        lambda i: i.update(weight_map={name: f"./{shard}" for name, shard in i["weight_map"].items()}),
        lambda i: i.update(weight_map={name: f"././/{shard}" for name, shard in i["weight_map"].items()}),
        lambda i: i["weight_map"].update({"lm_head.weight": "./" + i["weight_map"]["lm_head.weight"]}),
        lambda i: i.pop("metadata"),
        lambda i: i.update(metadata=None),
    ],
)
def test_an_index_lists_the_shards_and_the_shards_list_the_tensors(
    tiny_model: TinyModels, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("llama", shard_bytes=20_000), folder)
    honest = read_checkpoint(folder)

    edit_index(folder, change)

    assert len(honest.shards) > 1
    assert read_checkpoint(folder).entries == honest.entries


def edit_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda i: i["weight_map"].update(more="../other.safetensors"),
            "'more' in '../other.safetensors', which is no",
        ),
        (lambda i: i["weight_map"].update(more="x/../a.safetensors"), "save the model again"),
        (lambda i: i["weight_map"].update(more="sub/a.safetensors"), "put all shards next to the index"),
        (lambda i: i["weight_map"].update(more="/a.safetensors"), "which is no safetensors file"),
        (lambda i: i["weight_map"].update(more="a.safetensors/"), "which is no safetensors file"),
        (lambda i: i["weight_map"].update(more="./"), "which is no safetensors file"),
        (lambda i: i["weight_map"].update(more=3), "which is no safetensors file"),
        (lambda i: i["weight_map"].update(more="absent.safetensors"), "absent.safetensors: no such file, but model"),
        (lambda i: i.update(weight_map=[]), "'weight_map' is not a table"),
        (lambda i: i.update(metadata=[]), "'metadata' is not a table"),
    ],
)
def test_an_index_that_names_no_files_of_the_folder_is_refused(
    tiny_model: TinyModels, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = copy_model(tiny_model("llama", 20_000), tmp_path / "model")
    edit_index(folder, change)

    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize("prefix", ["./", "././", ".//", "./././"])
def test_the_loading_library_reads_the_files_that_an_index_names_by_a_longer_path(
    tiny_model: TinyModels, tmp_path: Path, prefix: str
) -> None:
    folder = copy_model(tiny_model("llama", 20_000), tmp_path / "model")
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    edit_index(folder, lambda i: i.update(weight_map={n: prefix + shard for n, shard in i["weight_map"].items()}))

    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()

    assert all(torch.equal(loaded[name], weight) for name, weight in before.items())
    assert set(read_checkpoint(folder).entries) <= {*before, "lm_head.weight"}


def test_a_tensor_in_two_shards_is_refused(tiny_model: TinyModels, tmp_path: Path) -> None:
    folder = copy_model(tiny_model("llama", 20_000), tmp_path / "model")
    first, second, *_ = weight_files(folder)
    shutil.copyfile(folder / first, folder / second)

    with pytest.raises(CheckpointError, match=f"{second}: tensor .* is in {first} too"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", None, r"config\.json: no such file; point at"),
        ("config.json", "[]", "'model_type' is not a name"),
        ("config.json", '{"model_type": "llama", "model_type": "gpt2"}', "appears twice.*fetch the file again"),
        ("config.json", '{"model_type": "llama", "tie_word_embeddings": 1}', "neither true nor false"),
        ("model.safetensors", None, "neither model.safetensors nor model.safetensors.index.json; point"),
        ("model.safetensors", "", "a header of 0 bytes does not fit a file of 0"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(
    tiny_model: TinyModels, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    folder = copy_model(tiny_model("llama"), tmp_path / "model")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)

    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


def test_reading_and_digesting_need_no_torch() -> None:
    modules = "digests", "families", "safetensors_files", "snapshots"
    code = "import sys; " + "; ".join(f"import invarlock.checkpoints.{module}" for module in modules)

    code += "; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    succeed(python("-c", code, seconds=60))


@pytest.mark.parametrize("complete", [True, False])
def test_a_folder_with_two_sets_of_weights_is_refused_unless_one_is_a_leftover(
    tiny_model: TinyModels, tmp_path: Path, *, complete: bool
) -> None:
    folder = copy_model(tiny_model("llama", 20_000), tmp_path / "model")
    shards = weight_files(folder)
    assert len(shards) > 1
    save_file(
        {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )

    if complete:
        with pytest.raises(CheckpointError, match=r"two sets of weights, .*; move one of the two away"):
            weight_files(folder)
    else:
        (folder / shards[-1]).unlink()
        assert weight_files(folder) == ("model.safetensors",)
