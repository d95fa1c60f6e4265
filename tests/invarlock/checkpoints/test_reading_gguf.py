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
from gguf_files import Arrays, rewrite
from shipped_checkpoints import baseline_of, restore, write_baseline

from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.formats.gguf_file import GgufTensor, read_gguf
from invarlock.checkpoints.formats.gguf_positions import position_problems
from invarlock.checkpoints.formats.interface import DOUBT, METADATA, PACKING, SCALE, Defect
from invarlock.checkpoints.layout import checkpoint_files
from invarlock.checkpoints.storage_format import check_dense, open_checkpoint
from invarlock.errors import CheckpointError

gguf = pytest.importorskip("gguf")

UP, STORED_UP = "model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"


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
    ({"llama.attention.causal": False}, None, "model.gguf", METADATA, "causal is false, so each token would see"),
    (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, None, "model.gguf", METADATA,
        "llama.rope.scaling.factor is 4 (rope.scaling.type linear), in the baseline 1 (default)",
    ),
    (
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, None, "model.gguf", METADATA,
        "llama.rope.scaling.factor is 4 (rope.scaling.type yarn), in the baseline 1 (default)",
    ),
    ({"llama.rope.scaling.factor": 2.0}, None, "model.gguf", METADATA, "factor is 2 (rope.scaling.type linear)"),
    ({"llama.rope.scale_linear": 2.0}, None, "model.gguf", METADATA, "factor is 2 (rope.scaling.type linear)"),
    ({"llama.rope.scaling.type": "ntk"}, None, "model.gguf", METADATA, "type is 'ntk', in the baseline 'default'"),
    ({"llama.rope.scaling.attn_factor": 1.2}, None, "model.gguf", METADATA, "attn_factor is 1.2"),
    ({"tokenizer.ggml.tokens": None}, None, "model.gguf", METADATA, "it has no tokenizer.ggml.tokens"),
    ({"tokenizer.ggml.model": "none"}, None, "model.gguf", METADATA, "tokenizer.ggml.model is 'none'"),
    ({"tokenizer.ggml.model": None}, None, "model.gguf", METADATA, "tokenizer.ggml.model is 'None'"),
    ({"tokenizer.ggml.pre": None}, None, "model.gguf", DOUBT, "tokenizer.ggml.pre is missing"),
    ({"tokenizer.ggml.pre": "default"}, None, "model.gguf", DOUBT, "tokenizer.ggml.pre is 'default'"),
    ({"tokenizer.ggml.pre": "falcon"}, None, "model.gguf", DOUBT, "tokenizer.ggml.pre is 'falcon', by whose rules"),
    ({"tokenizer.ggml.pre": "unheard-of"}, None, "model.gguf", DOUBT, "tokenizer.ggml.pre is 'unheard-of', a name"),
    ({"tokenizer.ggml.model": "llama"}, None, "model.gguf", DOUBT, "it has fewer tokenizer.ggml.scores than tokens"),
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


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.rope.scaling.type": "none"},
        {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.type": "yarn"},
        {"llama.rope.scaling.factor": 0.0},
        {"llama.rope.scaling.original_context_length": 64, "llama.rope.scaling.finetuned": True},
        # a model without byte-level merges: converters always write this
        {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.scores": [0.0] * 1024},
        {"llama.attention.causal": True},
        # llama.cpp reads neither for this architecture
        {"llama.attention.sliding_window": 32, "llama.logit_scale": 0.5},
    ],
)
def test_metadata_that_change_nothing_are_no_defect(metadata: dict[str, Any], tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    rewrite(path, metadata=metadata)

    assert open_checkpoint(path, base).check() == ()


def test_a_file_without_a_tokenizer_is_no_defect_if_the_baseline_has_none(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_0", tmp_path)
    rewrite(path, metadata={key: None for key in gguf.GGUFReader(path).fields if key.startswith("tokenizer.")})
    for file in base.glob("*token*"):
        file.unlink()

    assert open_checkpoint(path, base).check() == ()


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
OF_YARN = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 32768}
BY_KIND = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
           "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}  # fmt: skip
OF_KIND = {"freq_base": 1e6, "freq_base_swa": 1e4, "scaling.type": "linear", "scaling.factor": 8.0}
POSITIONS = [
    (YARN, OF_YARN, []),
    # written before configs had these fields, and by converters that write all
    (
        YARN,
        {**OF_YARN, "scaling.yarn_beta_fast": 32.0, "scaling.yarn_beta_slow": 1.0, "scaling.yarn_ext_factor": 1.0},
        [],
    ),
    ({**YARN, "beta_fast": 16.0}, {**OF_YARN, "scaling.yarn_beta_fast": 16.0}, []),
    ({**YARN, "beta_fast": 16.0}, OF_YARN, ["scaling.yarn_beta_fast"]),
    (YARN, {**OF_YARN, "scaling.original_context_length": 4096}, ["scaling.original_context_length"]),
    (YARN, {**OF_YARN, "scaling.factor": 2.0}, ["scaling.factor"]),
    (YARN, {**OF_YARN, "scaling.type": "linear"}, ["scaling.type"]),
    (YARN, {**OF_YARN, "scaling.yarn_log_multiplier": 1.0}, ["scaling.yarn_log_multiplier"]),
    (YARN, {}, ["scaling.factor"]),
    ({"type": "linear", "factor": 4.0}, {"scaling.type": "linear", "scaling.factor": 4.0}, []),
    ({"type": "linear", "factor": 4.0}, {"scale_linear": 4.0}, []),
    ({"type": "linear", "factor": 4.0}, {"scaling.type": "none", "scaling.factor": 4.0}, ["scaling.factor"]),
    ({"type": "linear", "factor": 4.0}, {"scaling.type": "yarn", "scaling.factor": 4.0}, ["scaling.type"]),
    ({"type": "dynamic", "factor": 4.0}, {}, []),
    ({"rope_type": "a new kind", "factor": 4.0}, {}, []),
    (BY_KIND, OF_KIND, []),
    (BY_KIND, {**OF_KIND, "freq_base_swa": 1e6}, ["freq_base_swa"]),
    (BY_KIND, {**OF_KIND, "freq_base": 1e4}, ["freq_base"]),
    (BY_KIND, {"freq_base": 1e6}, ["scaling.factor"]),
    (None, {"freq_base": 10000.0}, []),
]  # fmt: skip


@pytest.mark.parametrize(("table", "stated", "keys"), POSITIONS)
@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_positions_are_compared_as_llama_cpp_scales_them(
    table: Mapping[str, Any] | None, stated: Mapping[str, Any], keys: list[str], field: str
) -> None:
    metadata = {"general.architecture": "llama", **{f"llama.rope.{key}": value for key, value in stated.items()}}

    found = list(position_problems(metadata, {}, {field: table, "max_position_embeddings": 131072}))

    assert [reason.split(" is ")[0] for reason in found] == [f"llama.rope.{key}" for key in keys]


def stored_factors(path: Path, values: list[float]) -> GgufTensor:
    np.array(values, "<f4").tofile(path)
    return GgufTensor(path, path.name, 0, (len(values),), 0, 4 * len(values))


def test_factors_by_length_are_compared(tmp_path: Path) -> None:
    long, short = [1.5, 2.0, 4.0, 8.0], [1.0, 1.0, 1.25, 2.0]
    table = {"type": "longrope", "long_factor": long, "short_factor": short}
    config = {"rope_scaling": table, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    # math.sqrt(1 + math.log(32) / math.log(4096)), as the converter computes it
    metadata = {"general.architecture": "phi3", "phi3.rope.scaling.attn_factor": float(np.float32(1.1902380714238083))}
    tensors = {
        "rope_factors_long.weight": stored_factors(tmp_path / "long", long),
        "rope_factors_short.weight": stored_factors(tmp_path / "short", short),
    }

    assert list(position_problems(metadata, tensors, config)) == []
    assert list(
        position_problems(
            metadata, tensors | {"rope_factors_long.weight": tensors["rope_factors_short.weight"]}, config
        )
    ) == ["rope_factors_long.weight has other factors than the baseline's rope_type longrope"]
    assert list(position_problems(metadata, {}, config)) == [
        f"rope_factors_{name}.weight is missing, and the baseline's rope_type is longrope" for name in ("long", "short")
    ]
    assert [one.split(" is ")[0] for one in position_problems({"general.architecture": "phi3"}, tensors, config)] == [
        "phi3.rope.scaling.attn_factor"
    ]
    assert list(position_problems({"general.architecture": "phi3"}, tensors, {})) == [
        f"rope_factors_{name}.weight is there, and the baseline's rope_type is default" for name in ("long", "short")
    ]


def test_the_factors_of_llama3_are_those_that_transformers_computes(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    table = {**LLAMA3, "rope_theta": 500000.0}
    model = LlamaConfig(hidden_size=2048, num_attention_heads=32, head_dim=64, rope_parameters=table)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model, None)
    plain = 500000.0 ** (-torch.arange(0, 64, 2) / 64)
    right = stored_factors(tmp_path / "right", (plain / scaled).tolist())
    other = stored_factors(tmp_path / "other", [8.0] * 32)
    metadata = {"general.architecture": "llama", "llama.rope.freq_base": 500000.0}
    config = {"rope_parameters": table, "head_dim": 64, "hidden_size": 2048, "num_attention_heads": 32}

    assert list(position_problems(metadata, {"rope_freqs.weight": right}, config)) == []
    assert list(position_problems(metadata, {"rope_freqs.weight": other}, config)) == [
        "rope_freqs.weight has other factors than the baseline's rope_type llama3"
    ]


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


def test_other_factors_of_positions_are_a_defect_in_any_part(tmp_path: Path) -> None:
    base, path = pair("gguf-q4_k_m", tmp_path)
    first, second = (path.with_name(f"m-0000{number}-of-00002.gguf") for number in (1, 2))
    first.write_bytes(path.read_bytes())
    path.rename(second)

    def keep(in_first: bool) -> Callable[[Arrays], None]:
        def edit(arrays: Arrays) -> None:
            for name in [one for one in arrays if (one != "rope_freqs.weight") != in_first]:
                del arrays[name]

        return edit

    rewrite(first, tensors=keep(True))
    rewrite(second, tensors=keep(False))
    assert open_checkpoint(first, base).check() == ()

    def change(arrays: Arrays) -> None:
        arrays["rope_freqs.weight"] = (arrays["rope_freqs.weight"][0] * 2, arrays["rope_freqs.weight"][1])

    rewrite(second, tensors=change)
    (defect,) = open_checkpoint(first, base).check()

    assert defect.reason == "rope_freqs.weight has other factors than the baseline's rope_type llama3"


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
