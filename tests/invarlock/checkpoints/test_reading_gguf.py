"""GGUF files that llama.cpp wrote, healthy and damaged: what is read, what is refused, and what is a defect."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shipped_checkpoints import baseline_of, restore, write_baseline

from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.formats.gguf_file import read_gguf
from invarlock.checkpoints.formats.interface import METADATA, PACKING, SCALE, Defect
from invarlock.checkpoints.layout import checkpoint_files
from invarlock.checkpoints.storage_format import check_dense, open_checkpoint
from invarlock.errors import CheckpointError

gguf = pytest.importorskip("gguf")

UP, STORED_UP = "model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"
Arrays = dict[str, tuple[np.ndarray[Any, Any], Any]]


def rewrite(
    path: Path, *, metadata: Mapping[str, Any] | None = None, tensors: Callable[[Arrays], None] = lambda arrays: None
) -> None:
    """Write a GGUF file again with other metadata (None removes a key) and other tensors."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    changes = {"general.architecture": architecture, **(metadata or {})}
    writer = gguf.GGUFWriter(path.with_suffix(".new"), changes["general.architecture"])
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or changes.get(key, "") is None:
            continue
        value = changes.get(key, field.contents())
        writer.add_key_value(key, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for key in changes.keys() - reader.fields.keys():
        writer.add_float32(key, changes[key])
    arrays: Arrays = {one.name: (np.array(one.data), one.tensor_type) for one in reader.tensors}
    tensors(arrays)
    for name, (data, kind) in arrays.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)


def pair(name: str, tmp_path: Path) -> tuple[Path, Path]:
    """Return the baseline and the GGUF file of a kept checkpoint."""
    base = write_baseline(baseline_of(name), tmp_path / "baseline")
    return base, restore(name, tmp_path / "subject") / "model.gguf"


def scale_is(value: float) -> Callable[[Arrays], None]:
    def edit(arrays: Arrays) -> None:
        arrays[STORED_UP][0][0, :2] = np.array([value], np.float16).view(np.uint8)

    return edit


def zero_block(arrays: Arrays) -> None:
    arrays[STORED_UP][0][0, :18] = [0, 0, *[0x88] * 16]


def loses(name: str) -> Callable[[Arrays], None]:
    def edit(arrays: Arrays) -> None:
        del arrays[name]

    return edit


def one_block_more(arrays: Arrays) -> None:
    arrays["blk.9.ffn_up.weight"] = arrays[STORED_UP]


def odd_rows(arrays: Arrays) -> None:
    data, kind = arrays["blk.0.attn_q.weight"]
    arrays["blk.0.attn_q.weight"] = (data[:-3], kind)


DEFECTS = [
    ({}, scale_is(float("inf")), UP, SCALE, "1 of 1536 blocks have a scale that is not finite"),
    ({}, scale_is(float("nan")), UP, SCALE, "1 of 1536 blocks have a scale that is not finite"),
    ({}, scale_is(0.0), UP, SCALE, "1 of 1536 blocks have a scale of zero, and codes"),
    ({}, one_block_more, "blk.9.ffn_up.weight", PACKING, "the baseline has no such tensor"),
    ({}, odd_rows, "model.layers.0.self_attn.q_proj.weight", PACKING, "125 rows are no pairs of 4 heads"),
    ({"llama.rope.freq_base": 1e6}, None, "model.gguf", METADATA, "rope.freq_base is 1000000.0, in the baseline 10000"),
    ({"llama.rope.freq_base": float("nan")}, None, "model.gguf", METADATA, "rope.freq_base is nan"),
    ({"llama.attention.head_count": 8}, None, "model.gguf", METADATA, "head_count is 8, in the baseline 4"),
    ({"llama.attention.head_count_kv": 4}, None, "model.gguf", METADATA, "head_count_kv is 4, in the baseline 2"),
    ({"llama.block_count": 3}, None, "model.gguf", METADATA, "block_count is 3, in the baseline 4"),
    ({"llama.attention.layer_norm_rms_epsilon": 1e-5}, None, "model.gguf", METADATA, "in the baseline 1e-06"),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "tensors", "tensor", "kind", "reason"), DEFECTS)
def test_a_defect_of_a_gguf_file_is_one_line(
    metadata: dict[str, Any], tensors: Callable[[Arrays], None] | None, tensor: str, kind: str, reason: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    base, path = pair("gguf-q4_0", tmp_path)
    rewrite(path, metadata=metadata, tensors=tensors or (lambda arrays: None))

    (defect,) = open_checkpoint(path, base).check()

    assert (defect.tensor, defect.kind) == (tensor, kind)
    assert reason in defect.reason
    assert "\n" not in defect.reason


def test_rewriting_alone_changes_nothing(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    before = open_checkpoint(path, base)
    numbers = {name: before.read(name) for name in before.files.entries}

    rewrite(path)

    after = open_checkpoint(path, base)
    assert after.check() == ()
    assert all(torch.equal(after.read(name), tensor) for name, tensor in numbers.items())


def test_a_block_of_zeros_is_no_defect(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    rewrite(path, tensors=zero_block)

    checkpoint = open_checkpoint(path, base)

    assert checkpoint.check() == ()
    assert not checkpoint.read(UP)[0, :32].any()


def test_a_scale_that_is_zero_as_the_weights_are_tiny_is_no_defect(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base, path = pair("gguf-q4_0", tmp_path)
    tensors = load_file(base / "model.safetensors")
    tensors[UP][0, :32] = 1e-8
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    rewrite(path, tensors=scale_is(0.0))

    assert open_checkpoint(path, base).check() == ()


@pytest.mark.parametrize("stored", [STORED_UP, "blk.0.attn_q.weight", "output_norm.weight", "token_embd.weight"])
def test_a_tensor_that_a_file_lacks_is_not_made_up(stored: str, tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    rewrite(path, tensors=loses(stored))

    missing = open_checkpoint(base).files.entries.keys() - open_checkpoint(path, base).files.entries.keys()

    assert len(missing) == 1


@pytest.mark.parametrize("spaces", [0, 20_000_000])
def test_tokens_in_another_order_are_a_defect(tmp_path: Path, spaces: int) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    # the tokenizer.json of Gemma 3 has 33 MB
    with (base / "tokenizer.json").open("a") as stream:
        stream.write(" " * spaces)
    tokens = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    rewrite(path, metadata={"tokenizer.ggml.tokens": [*tokens[1:], tokens[0]]})

    (defect,) = open_checkpoint(path, base).check()

    assert defect == Defect(
        "model.gguf", METADATA, "1024 of 1024 tokens are not the baseline's, such as number 0: '\"' for '!'"
    )


def test_fewer_tokens_than_rows_are_a_defect(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    tokens = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    rewrite(path, metadata={"tokenizer.ggml.tokens": tokens[:-1]})

    (defect,) = open_checkpoint(path, base).check()

    assert defect.reason == "it lists 1023 tokens, and token_embd.weight has 1024 rows"


def test_factors_of_positions_that_are_lost_are_a_defect(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_k_m", tmp_path)
    rewrite(path, tensors=loses("rope_freqs.weight"))

    (defect,) = open_checkpoint(path, base).check()

    assert defect.reason == "rope_freqs.weight is missing, and the baseline's rope_type is llama3"


def test_a_stack_with_too_few_experts_lacks_the_others(tmp_path: Path) -> None:
    base, path = pair("gguf-experts-q4_0", tmp_path)

    def cut(arrays: Arrays) -> None:
        data, kind = arrays["blk.1.ffn_down_exps.weight"]
        arrays["blk.1.ffn_down_exps.weight"] = (data[:3], kind)

    rewrite(path, tensors=cut)
    missing = open_checkpoint(base).files.entries.keys() - open_checkpoint(path, base).files.entries.keys()

    assert missing == {"model.layers.1.block_sparse_moe.experts.3.w2.weight"}


def test_a_file_and_its_folder_are_the_same_checkpoint(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)

    assert checkpoint_files(path) == checkpoint_files(path.parent) == ("model.gguf",)
    assert digest_checkpoint(path) == digest_checkpoint(path.parent)
    assert open_checkpoint(path, base).files.shapes == open_checkpoint(path.parent, base).files.shapes


def test_a_head_of_its_own_unties(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_1", tmp_path)
    assert open_checkpoint(path, base).files.tied

    rewrite(path, tensors=lambda arrays: arrays.update({"output.weight": arrays["token_embd.weight"]}))
    checkpoint = open_checkpoint(path, base)

    assert not checkpoint.files.tied
    assert torch.equal(checkpoint.read("lm_head.weight"), checkpoint.read("model.embed_tokens.weight"))


def test_parts_of_a_model_are_read_together(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    whole = open_checkpoint(path, base)
    numbers = {name: whole.read(name) for name in whole.files.entries}
    first, second = (path.with_name(f"m-0000{number}-of-00002.gguf") for number in (1, 2))
    first.write_bytes(path.read_bytes())
    path.rename(second)

    def keep(in_first: bool) -> Callable[[Arrays], None]:
        def edit(arrays: Arrays) -> None:
            for name in [one for one in arrays if one.startswith("blk.0") != in_first]:
                del arrays[name]

        return edit

    rewrite(first, tensors=keep(True))
    rewrite(second, tensors=keep(False))

    for subject in (first.parent, first, second):
        checkpoint = open_checkpoint(subject, base)
        assert checkpoint.check() == ()
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in numbers.items())
    second.unlink()
    with pytest.raises(CheckpointError, match="is one of 2"):
        open_checkpoint(first, base)


def test_several_models_in_a_folder_are_refused_and_each_is_read_by_its_file(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    path.with_name("other.gguf").write_bytes(path.read_bytes())

    with pytest.raises(CheckpointError, match="2 models in GGUF"):
        open_checkpoint(path.parent, base)

    assert open_checkpoint(path, base).check() == ()


@pytest.mark.parametrize(
    ("metadata", "named"),
    [({"general.architecture": "mamba"}, "mamba"), ({"general.architecture": "qwen2"}, "the baseline is a 'mistral'")],
)
def test_another_architecture_is_refused_by_name(metadata: dict[str, Any], named: str, tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    rewrite(path, metadata=metadata)

    with pytest.raises(CheckpointError, match=named) as raised:
        open_checkpoint(path, base)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("kind", "data"), [("Q8_1", np.zeros((384, 160), np.uint8)), ("I32", np.ones(128, np.int32))])
def test_a_type_that_the_package_does_not_dequantise_is_refused_by_name(
    kind: str, data: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    rewrite(path, tensors=lambda arrays: arrays.update({STORED_UP: (data, gguf.GGMLQuantizationType[kind])}))

    with pytest.raises(CheckpointError, match=f"of type {kind}"):
        open_checkpoint(path, base)


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)

    with pytest.raises(CheckpointError, match=r"pip install 'invarlock\[gguf\]'"):
        open_checkpoint(path, base)


def test_a_gguf_file_is_no_baseline(tmp_path: Path) -> None:
    _, path = pair("gguf-q4_0", tmp_path)

    with pytest.raises(CheckpointError, match="name it as the subject of that model"):
        check_dense(path.parent)


def header(*pairs: bytes, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs)) + b"".join(pairs)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


BROKEN = {
    "empty": b"",
    "other": b"PK\x03\x04" + bytes(64),
    "old": header(version=1),
    "swapped": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "pairs": b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
    "tensors": header(tensors=1 << 60),
    "long text": header(struct.pack("<Q", 1 << 62) + b"abc"),
    "long list": header(text("a") + struct.pack("<IIQ", 9, 8, 1 << 60)),
    "long numbers": header(text("a") + struct.pack("<IIQ", 9, 4, 1 << 60)),
    "list of lists": header(text("a") + struct.pack("<IIQ", 9, 9, 1)),
    "kind": header(text("a") + struct.pack("<I", 77)),
    "twice": header(text("a") + struct.pack("<IB", 0, 1), text("a") + struct.pack("<IB", 0, 1)),
    "alignment": header(text("general.alignment") + struct.pack("<II", 4, 0)),
    "dimensions": header(tensors=1) + text("t") + struct.pack("<I", 1 << 30),
    "type": header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 32, 999, 0),
    "shape": header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 0, 0, 0),
    "blocks": header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(64),
    "overflow": header(tensors=1) + text("t") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0),
    "offset": header(tensors=1) + text("t") + struct.pack("<IQIQ", 1, 32, 0, 64) + bytes(512),
    "behind": header() + bytes(64),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_header_is_one_line_and_takes_no_time(content: bytes, tmp_path: Path) -> None:
    base = write_baseline("qwen2-tiny", tmp_path / "baseline")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="not a whole GGUF file") as raised:
        open_checkpoint(path, base)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
def test_a_cut_file_is_refused(share: float, tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])

    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        open_checkpoint(path, base)


def test_a_config_next_to_a_gguf_file_is_not_read(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    (path.parent / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}}))

    assert open_checkpoint(path.parent, base).files.model_type == "mistral"
    assert checkpoint_files(path.parent) == ("model.gguf",)


def test_a_header_is_parsed_once_until_its_file_is_written_again(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    first = read_gguf(path, sizes)
    assert read_gguf(path, sizes) is first

    rewrite(path, metadata={"llama.block_count": 3})

    assert len(open_checkpoint(path, base).check()) == 1
    assert read_gguf(path, sizes).metadata["llama.block_count"] == 3
