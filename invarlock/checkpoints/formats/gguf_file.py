"""Reads the header of a GGUF file: its metadata, and the place of each tensor. PyTorch is not imported.

A header is untrusted input: it is read strictly and within limits, as llama.cpp reads it. Source: llama.cpp
``ggml/src/gguf.cpp`` and https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from invarlock.errors import CheckpointError

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Tokens and merges of the largest vocabularies take about 20 MB.
MAX_HEADER_BYTES = 256 * 1024 * 1024
MAX_DIMENSIONS, ALIGNMENT = 4, 32
# Enough for all parts of the largest model, since an evaluation opens its subject several times.
KEPT_HEADERS = 32
SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
TEXT, LIST = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        path: the path of the file.
        name: llama.cpp's name of the tensor.
        kind: ggml's number of its type.
        shape: the shape in PyTorch's order, the reverse of the file's order.
        offset: the offset of its first byte in the file.
        row_bytes: the bytes of one row, that is, of the last dimension.
    """

    path: Path
    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int
    row_bytes: int

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """The number of bytes in the file, without padding."""
        return math.prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file: its metadata by key, and its tensors by name."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path, sizes: Mapping[int, tuple[int, int]]) -> GgufFile:
    """Return the content of a GGUF file's header.

    A header is parsed again only if its file changes, because the tokens of a large vocabulary take seconds.

    Args:
        path: the file.
        sizes: for each type of ggml, the number of weights in a block, and the block's bytes.

    Raises:
        CheckpointError: if the file cannot be read or is not a complete GGUF file.
    """
    try:
        state = path.stat()
        version = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        return _parse(path, version, tuple(sizes.items()))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


@lru_cache(maxsize=KEPT_HEADERS)
def _parse(path: Path, version: tuple[int, ...], sizes: tuple[tuple[int, tuple[int, int]], ...]) -> GgufFile:
    """Return the header of a file; ``version`` changes when the file is written again."""
    with path.open("rb") as stream:
        return _Header(path, stream).read(dict(sizes))


class _Header:
    """The part of a header that is not read yet."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self.size = stream.seek(0, 2)
        self.end = min(self.size, MAX_HEADER_BYTES)
        self.position = stream.seek(0)

    def read(self, sizes: Mapping[int, tuple[int, int]]) -> GgufFile:
        if self.take(4) != MAGIC:
            raise self.malformed("it does not begin with GGUF")
        version = self.scalar("<I")
        if version not in VERSIONS:
            raise self.malformed(f"its version is {version}, and {', '.join(map(str, VERSIONS))} are read")
        tensor_count, pair_count = self.scalar("<Q"), self.scalar("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self.text()
            if key in metadata:
                raise self.malformed(f"the key {key[:80]!r} is there twice")
            metadata[key] = self.value(self.scalar("<I"))
        rows = [self.tensor(sizes) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment % 8:
            raise self.malformed(f"general.alignment is {str(alignment)[:40]}")
        return GgufFile(self.path, metadata, self.placed(rows, alignment))

    def placed(self, rows: list[tuple[GgufTensor, int]], alignment: int) -> dict[str, GgufTensor]:
        """Return the tensors with their offsets; they must follow one another, aligned, up to the end of the file."""
        start = -(-self.position // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        position = 0
        for tensor, offset in rows:
            if tensor.name in tensors:
                raise self.malformed(f"tensor {tensor.name[:80]!r} is there twice")
            if offset != position:
                raise self.malformed(f"the data of tensor {tensor.name[:80]!r} starts at byte {offset}, not {position}")
            tensors[tensor.name] = GgufTensor(
                tensor.path, tensor.name, tensor.kind, tensor.shape, start + offset, tensor.row_bytes
            )
            end = start + offset + tensor.size_bytes
            position += -(-tensor.size_bytes // alignment) * alignment
            if end > self.size:
                raise self.malformed(f"tensor {tensor.name[:80]!r} ends at byte {end} of {self.size}")
        if self.size > start + position:
            raise self.malformed(f"the header describes {start + position} bytes, the file has {self.size}")
        return tensors

    def tensor(self, sizes: Mapping[int, tuple[int, int]]) -> tuple[GgufTensor, int]:
        name, dimensions = self.text(), self.scalar("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.malformed(f"tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(reversed([self.scalar("<Q") for _ in range(dimensions)]))
        kind, offset = self.scalar("<I"), self.scalar("<Q")
        if kind not in sizes:
            raise self.malformed(f"tensor {name[:80]!r} has type {kind}, which the gguf package does not know")
        block, block_bytes = sizes[kind]
        if 0 in shape or shape[-1] % block or math.prod(shape) >= 1 << 63:
            raise self.malformed(f"tensor {name[:80]!r} of shape {list(shape)} is stored in blocks of {block}")
        return GgufTensor(self.path, name, kind, shape, offset, shape[-1] // block * block_bytes), offset

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != LIST:
            raise self.malformed(f"a value has type {kind}")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        if inner == TEXT:
            return [self.text() for _ in range(count)]
        if inner not in SCALARS:
            raise self.malformed(f"a list has values of type {inner}")
        data = self.take(count * struct.calcsize(SCALARS[inner]))
        return [one for (one,) in struct.iter_unpack(SCALARS[inner], data)]

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(int.from_bytes(self.take(8), "little")).decode("utf-8", "replace")

    def take(self, count: int) -> bytes:
        self.position += count
        if self.position > self.end:
            raise self.malformed(f"its header ends beyond byte {self.end}")
        return self.stream.read(count)

    def malformed(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: not a whole GGUF file: {what}; fetch or convert it again")
