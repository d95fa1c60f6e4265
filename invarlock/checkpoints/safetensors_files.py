"""Reads checkpoint folders without PyTorch: the config, and the facts of every tensor from the headers of the files.

Example::

    files = read_checkpoint(Path("mistral-7b"))
    files.entries["lm_head.weight"]  # TensorEntry(shard="model-00002-of-00002.safetensors", dtype="BF16", …)
    files.total_parameters           # 7241732096

A header is untrusted input: its size is limited, it is read strictly, and its tensors must fill the file exactly,
without gaps or overlaps (the safetensors format, https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from invarlock.checkpoints.architectures import ARCHITECTURES, Role
from invarlock.checkpoints.families import Module, classify, has_table
from invarlock.checkpoints.layout import CONFIG_FILE, ShardIndex, check_fetched, read_index, shard_names
from invarlock.errors import CheckpointError, DocumentError, MissingFileError
from invarlock.jsonio import parse_json, read_json

# The format's own limit on a header.
MAX_HEADER_BYTES = 100_000_000
# The largest config.json on the hub is below 1 MB.
MAX_CONFIG_BYTES = 16 * 1024 * 1024
LENGTH_BYTES = 8
# No weight of a transformer has more dimensions. Tensor names in messages are untrusted text, and cut to this length.
MAX_DIMENSIONS = 8
SHOWN_CHARACTERS = 200

# Rotary frequencies and angles (Llama before 2023, GPT-NeoX), causal masks (GPT-2, GPT-NeoX), position numbers (BERT).
_BUFFERS = re.compile(
    r"(?:^|\.)(?:rotary_emb(?:_\w+)?\.(?:\w*inv_freq|(?:cos|sin)(?:_cached)?)|h\.\d+\.attn\.(?:bias|masked_bias)"
    r"|layers\.\d+\.attention\.(?:bias|masked_bias)|embeddings\.position_ids)$"
)

# Bytes per element; the format's sub-byte dtypes are used for no weights that can be edited.
ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a checkpoint, from its shard's header; ``size_bytes`` is the size of its data."""

    name: str
    shard: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Return whether the stored dtype is a float of any width."""
        return self.dtype.startswith(("F", "BF"))


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint folder: its config, its shards sorted by name, and its tensors by name."""

    folder: Path
    config: Mapping[str, Any]
    model_type: str
    shards: tuple[str, ...]
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, Mapping[str, str]]
    index: ShardIndex | None

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {name: entry.shape for name, entry in self.entries.items()}

    @cached_property
    def modules(self) -> dict[str, Module]:
        """The module of each tensor, by tensor name."""
        return {name: classify(self.model_type, name, entry.shape) for name, entry in self.entries.items()}

    @property
    def total_parameters(self) -> int:
        """The elements of all stored floating-point tensors; a tied head that is not stored does not count."""
        return sum(entry.elements for entry in self.entries.values() if entry.is_float)

    @property
    def tied(self) -> bool:
        """Whether the config ties the output head to the input embedding.

        If neither the config nor a table says so, a head that is not stored counts as tied.
        """
        inner = self.config.get("text_config")
        stated = self.config.get("tie_word_embeddings")
        if stated is None and isinstance(inner, dict):
            stated = inner.get("tie_word_embeddings")
        if isinstance(stated, bool):
            return stated
        if has_table(self.model_type):
            return ARCHITECTURES[self.model_type].tied_by_default
        return bool(self.with_role("tokens")) and not self.with_role("head")

    def with_role(self, role: Role) -> tuple[str, ...]:
        """Return the names of the tensors (weights and biases) of modules with a role, sorted."""
        return tuple(sorted(name for name, module in self.modules.items() if module.role == role))


def read_checkpoint(folder: Path) -> CheckpointFiles:
    """Return the content of a checkpoint, from its config and the headers of its shards.

    Buffers that older libraries stored, and that all libraries now compute, are not weights and are left out.

    Raises:
        CheckpointError: when a file is missing, malformed or truncated, or a tensor is in two shards.
    """
    config = read_config(folder)
    index = read_index(folder)
    shards = shard_names(folder, index)
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, Mapping[str, str]] = {}
    for shard in shards:
        found, metadata[shard] = read_header(folder / shard)
        for name, entry in found.items():
            if name in entries:
                raise CheckpointError(
                    f"{folder / shard}: tensor {name!r} is in {entries[name].shard} too; fetch the model again"
                )
            entries[name] = entry
    entries = {name: entry for name, entry in entries.items() if _BUFFERS.search(name) is None}
    return CheckpointFiles(folder, config, config["model_type"], shards, entries, metadata, index)


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json``, an object with a ``model_type``.

    Raises:
        CheckpointError: when it is missing or is not such an object.
    """
    path = folder / CONFIG_FILE
    try:
        config = read_json(path, limit_bytes=MAX_CONFIG_BYTES, non_finite=True)
    except MissingFileError:
        raise CheckpointError(f"{path}: no such file; point at the folder of a checkpoint") from None
    except DocumentError as error:
        raise CheckpointError(f"{error}; fetch the file again") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{path}: 'model_type' is not a name; point at a transformers checkpoint")
    if not isinstance(config.get("tie_word_embeddings"), bool | None):
        raise CheckpointError(f"{path}: 'tie_word_embeddings' is neither true nor false; correct the file")
    return config


def stored_item_bytes(config: Mapping[str, Any]) -> int:
    """Return the bytes per weight for the dtype in a config; float32 if it names none, as in transformers."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}.get(name, 1 if name.startswith("float8") else 4)


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Return the tensors of a safetensors file in the order of their data, and the header's metadata.

    Raises:
        CheckpointError: when the header is malformed, or its tensors do not fill the file exactly.
    """
    try:
        check_fetched(path)
        with path.open("rb") as stream:
            file_bytes = stream.seek(0, 2)
            stream.seek(0)
            header_bytes = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if file_bytes < LENGTH_BYTES or header_bytes > min(MAX_HEADER_BYTES, file_bytes - LENGTH_BYTES):
                raise _malformed(path, f"a header of {header_bytes} bytes does not fit a file of {file_bytes}")
            text = stream.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        header = parse_json(text, where=str(path), limit_bytes=MAX_HEADER_BYTES)
    except DocumentError as error:
        raise CheckpointError(f"{error}, in the safetensors header; fetch the file again") from None
    if not isinstance(header, dict):
        raise _malformed(path, "the header is not an object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _malformed(path, "'__metadata__' is not a table of texts")
    spans = sorted((_read_entry(path, name, row) for name, row in header.items()), key=lambda span: (span[0], span[1]))
    end = 0
    for start, stop, entry in spans:
        if start != end:
            raise _malformed(path, f"the data of tensor {entry.name!r} starts at byte {start}, not at {end}")
        end = stop
    if end != file_bytes - LENGTH_BYTES - header_bytes:
        raise _malformed(
            path, f"the header describes {end} bytes of data, the file has {file_bytes - LENGTH_BYTES - header_bytes}"
        )
    return {entry.name: entry for _, _, entry in spans}, metadata


def _read_entry(path: Path, name: str, row: Any) -> tuple[int, int, TensorEntry]:
    shown = name[:SHOWN_CHARACTERS]
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f"tensor {shown!r} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{path}: tensor {shown!r} has dtype {str(dtype)[:40]!r}; use a checkpoint stored as one of "
            f"{', '.join(ITEM_BYTES)}"
        )
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise _malformed(path, f"tensor {shown!r} has a shape or data_offsets that are no sizes")
    start, stop = offsets
    if stop - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise _malformed(path, f"tensor {shown!r} of dtype {dtype} and shape {shape} has {stop - start} bytes")
    return start, stop, TensorEntry(name, path.name, dtype, tuple(shape), stop - start)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _malformed(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a whole safetensors file: {what}; fetch it again")
