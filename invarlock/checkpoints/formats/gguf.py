"""Reads GGUF files, which llama.cpp converts and quantises, as changes of the model they were made from.

The ``gguf`` package (extra ``gguf``) dequantises tensors to float32. Names, config and tokenizer come from the
baseline. The file's metadata are compared with them, and each difference is a defect.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.gguf_file import GgufFile, GgufTensor, read_gguf
from invarlock.checkpoints.formats.gguf_metadata import metadata_defects, quantisation
from invarlock.checkpoints.formats.gguf_names import CONVERSIONS, EXTRAS, Source, find_sources, names_apart
from invarlock.checkpoints.formats.interface import PACKING, SCALE, Defect, Quantisation, Storage, unreadable
from invarlock.checkpoints.formats.packed import dense_config
from invarlock.checkpoints.layout import find_gguf
from invarlock.checkpoints.safetensors_files import ITEM_BYTES, CheckpointFiles, TensorEntry, read_checkpoint
from invarlock.errors import CheckpointError

if TYPE_CHECKING:
    import torch

# Types of ggml that are not quantised, with their names in safetensors.
PLAIN: Mapping[str, str] = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
# The byte offsets of the float16 scales in a block, by type.
SCALES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,),
    "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
# The codes after the scale in a block of zeros; blocks of other types also have an offset.
ZERO_CODES: Mapping[str, bytes] = {"Q4_0": b"\x88" * 16, "Q5_0": b"\xff" * 4 + b"\x00" * 16, "Q8_0": b"\x00" * 32}
# The scale of a block with only smaller weights is zero in float16.
SMALL = 1e-5
# Float32 tensors up to this size are checked for values that fit the baseline's dtype.
NARROWED_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class GgufCheckpoint:
    """A model in GGUF files.

    Attributes:
        base: the baseline's tensors, and its folder.
        path: the folder of the files.
        parts: the parsed files.
        sources: the place of each tensor, by the baseline's tensor name.
        library: the ``gguf`` package.
        defects: the defects found in the headers.
        quantisation: the description of the quantisation for the report.
    """

    base: CheckpointFiles
    path: Path
    parts: tuple[GgufFile, ...]
    sources: Mapping[str, Source]
    library: Any
    defects: tuple[Defect, ...]
    quantisation: Quantisation

    @cached_property
    def files(self) -> CheckpointFiles:
        """The dense checkpoint that the files represent, with the names and the config of the baseline."""
        entries = {}
        for name, source in sorted(self.sources.items()):
            dtype = self._dtype(name, source)
            size = int(np.prod(source.shape, dtype=np.int64)) * ITEM_BYTES[dtype]
            entries[name] = TensorEntry(name, source.tensor.path.name, dtype, source.shape, size)
        # llama.cpp uses the embedding as the head if a file has no head
        config = {**dense_config(self.base.config), "tie_word_embeddings": "output.weight" not in self._stored}
        shards = tuple(part.path.name for part in self.parts)
        return CheckpointFiles(self.path, config, self.base.model_type, shards, entries, {}, None)

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor of ``files``, dense, on the CPU."""
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import of_dtype

        return of_dtype(self._values(self.sources[name]), self.files.entries[name].dtype)

    def storage(self) -> Storage:
        """Return how the weights are stored: the format, the bytes, and the number of packed weights."""
        packed = [tensor for tensor in self._stored.values() if self._kind(tensor) not in PLAIN]
        entries = self.files.entries
        return Storage(
            format=FORMAT.name,
            stored_bytes=sum(tensor.size_bytes for tensor in self._stored.values()),
            weights=self.files.total_parameters,
            packed_weights=sum(
                entries[name].elements
                for name, source in self.sources.items()
                if self._kind(source.tensor) not in PLAIN
            ),
            packed_bytes=sum(tensor.size_bytes for tensor in packed),
            unpacked_modules=tuple(
                name
                for name, source in sorted(self.sources.items())
                if len(source.shape) > 1 and self._kind(source.tensor) in PLAIN
            ),
            quantisation=self.quantisation,
        )

    def check(self) -> tuple[Defect, ...]:
        """Return the defects of the files, in the order of the tensors; this reads the scales of all blocks.

        They include contradictions between the metadata and the baseline's config, positions and tokens.
        """
        stated = metadata_defects(self.parts[0], self._stored, self.base.config, self.base.folder)
        found = {*self.defects, *stated, *self._broken_scales()}
        return tuple(sorted(found, key=lambda defect: (defect.tensor, defect.reason)))

    @cached_property
    def _stored(self) -> dict[str, GgufTensor]:
        return {name: tensor for part in self.parts for name, tensor in part.tensors.items()}

    def _kind(self, tensor: GgufTensor) -> str:
        return str(self.library.GGMLQuantizationType(tensor.kind).name)

    def _dtype(self, name: str, source: Source) -> str:
        """Return a tensor's dense dtype: float32 for codes; for float32, the baseline's dtype if all values fit it."""
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import of_dtype

        kind = self._kind(source.tensor)
        before = self.base.entries.get(name)
        if kind != "F32" or before is None or source.tensor.elements > NARROWED_ELEMENTS:
            return PLAIN.get(kind, "F32")
        if before.dtype not in PLAIN.values():
            return "F32"
        values = self._values(source)
        # the file has the sum of weight and shift, which float32 rounds for small weights
        narrow = of_dtype(values, before.dtype).float()
        same = bool((narrow + source.shift == values + source.shift).all())
        return before.dtype if same else "F32"

    def _rows(self, source: Source) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the stored bytes of a tensor, shape (…, bytes per row)."""
        tensor = source.tensor
        raw = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (*tensor.shape[:-1], tensor.row_bytes))
        return raw if source.expert is None else raw[source.expert]

    def _values(self, source: Source) -> torch.Tensor:
        """Return a tensor in float32, with the converter's changes undone."""
        # imported here so that recognising the format does not need PyTorch
        import torch

        kind = self.library.GGMLQuantizationType(source.tensor.kind)
        with np.errstate(all="ignore"):
            numbers = self.library.dequantize(np.array(self._rows(source)), kind)
        values: torch.Tensor = torch.from_numpy(np.ascontiguousarray(numbers, np.float32)).reshape(source.shape)
        if source.heads:
            values = _unpair(values, source.heads)
        return values - source.shift if source.shift else values

    def _broken_scales(self) -> Iterator[Defect]:
        for name, source in self.sources.items():
            kind = self._kind(source.tensor)
            if kind not in SCALES:
                continue
            size = self.library.GGML_QUANT_SIZES[source.tensor.kind][1]
            rows = self._rows(source)
            blocks = np.asarray(rows).reshape(*rows.shape[:-1], -1, size)
            scales = [blocks[..., at : at + 2].copy().view(np.float16)[..., 0] for at in SCALES[kind]]
            count = int(np.logical_or.reduce([~np.isfinite(one) for one in scales]).sum())
            if count:
                yield Defect(name, SCALE, f"{count} of {scales[0].size} blocks have a scale that is not finite")
            codes = ZERO_CODES.get(kind)
            if codes is None:
                continue
            lost = (scales[0] == 0) & (blocks[..., 2:] != np.frombuffer(codes, np.uint8)).any(-1)
            count = self._weighty(name, source, lost) if lost.any() else 0
            if count:
                yield Defect(name, SCALE, f"{count} of {scales[0].size} blocks have a scale of zero, and codes")

    def _weighty(self, name: str, source: Source, lost: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
        """Return how many of the blocks have weights in the baseline for which a scale would not be zero."""
        # imported here so that recognising the format does not need PyTorch
        import torch

        from invarlock.checkpoints.formats.unpacking import read_stored

        marked = torch.from_numpy(lost)
        if source.heads:
            marked = _unpair(marked, source.heads)
        if name not in self.base.entries or self.base.entries[name].shape != source.shape:
            return int(marked.sum())
        blocks = read_stored(self.base, name).float().abs().reshape(*marked.shape, -1).amax(-1)
        return int((marked & (blocks > SMALL)).sum())


@dataclass(frozen=True)
class GgufFormat:
    """A file ``*.gguf``, or a folder with the files of one model and no safetensors."""

    name: str = "GGUF"
    tools: str = "llama.cpp"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the path is a GGUF file, or a folder with one and without safetensors."""
        return bool(find_gguf(source.path))

    def open(self, source: CheckpointFolder) -> GgufCheckpoint:
        """Return the reader of the files, with the baseline's names for their tensors.

        Raises:
            CheckpointError: when the ``gguf`` package or a part is missing, a header is malformed, or the architecture
                is not supported or not the baseline's.
        """
        paths = find_gguf(source.path)
        if source.base is None:
            raise CheckpointError(
                f"{paths[0]}: a GGUF file is read under the names and the config of the model it was made from; name "
                "it as the subject of that model"
            )
        library = _library(paths[0])
        sizes = _block_sizes(library)
        parts = tuple(read_gguf(path, sizes) for path in paths)
        architecture = parts[0].metadata.get("general.architecture")
        conversion = CONVERSIONS.get(str(architecture))
        base = read_checkpoint(source.base)
        if conversion is None:
            raise unreadable(paths[0], self, f"its architecture is {str(architecture)[:40]!r}")
        if base.model_type not in conversion.model_types:
            raise CheckpointError(
                f"{paths[0]}: its architecture is {architecture!r}, and the baseline is a {base.model_type[:40]!r}; "
                "name the model that it was made from as the baseline"
            )
        self._refuse_types(paths[0], parts, library)
        number = next(one for one, name in library.MODEL_ARCH_NAMES.items() if name == architecture)
        blocks = base.config.get("num_hidden_layers")
        table = library.get_tensor_name_map(number, blocks if type(blocks) is int else 0)
        stored = {name: tensor for part in parts for name, tensor in part.tensors.items()}
        names = names_apart(base.shapes, base.model_type)
        sources = find_sources(names, stored, table, conversion, base.config)
        defects = list(_misfits(sources))
        used = {one.tensor.name for one in sources.values()} | EXTRAS
        defects += [
            Defect(name, PACKING, "the file has it, and the baseline has no such tensor")
            for name in sorted(stored.keys() - used)
        ]
        kinds = {int(kind): kind.name for kind in library.GGMLQuantizationType}
        packed = [tensor for tensor in stored.values() if kinds[tensor.kind] not in PLAIN]
        file_types = {int(kind): kind.name for kind in library.LlamaFileType}
        read = {name: one for name, one in sources.items() if not one.heads or one.shape[0] % (2 * one.heads) == 0}
        return GgufCheckpoint(
            base, paths[0].parent, parts, read, library, tuple(defects),
            quantisation(parts[0].metadata, kinds, file_types, packed),
        )  # fmt: skip

    def _refuse_types(self, path: Path, parts: tuple[GgufFile, ...], library: Any) -> None:
        """Refuse types that the package does not dequantise.

        Raises:
            CheckpointError: names the type.
        """
        for number in sorted({tensor.kind for part in parts for tensor in part.tensors.values()}):
            kind = library.GGMLQuantizationType(number)
            try:
                library.dequantize(np.zeros((1, library.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
            except NotImplementedError:  # the library raises this for a type that it cannot read
                raise unreadable(path, self, f"with tensors of type {kind.name}") from None


FORMAT = GgufFormat()


def read_metadata(path: Path) -> Mapping[str, Any] | None:
    """Return the metadata of the GGUF file at a path or in a folder; None if there is no such file.

    Raises:
        CheckpointError: when the ``gguf`` package or a part is missing, or the header is malformed.
    """
    paths = find_gguf(path)
    return read_gguf(paths[0], _block_sizes(_library(paths[0]))).metadata if paths else None


def _block_sizes(library: Any) -> dict[int, tuple[int, int]]:
    return {int(kind): size for kind, size in library.GGML_QUANT_SIZES.items()}


def _library(path: Path) -> Any:
    """Return the ``gguf`` package.

    Raises:
        CheckpointError: when it is not installed.
    """
    try:
        package: Any = importlib.import_module("gguf")
    except ImportError:
        raise CheckpointError(
            f"{path}: stored as GGUF, which the gguf package reads; install it: pip install 'invarlock[gguf]'"
        ) from None
    return package


def _misfits(sources: Mapping[str, Source]) -> Iterator[Defect]:
    for name, source in sources.items():
        if source.heads and source.shape[0] % (2 * source.heads):
            yield Defect(name, PACKING, f"{source.shape[0]} rows are no pairs of {source.heads} heads")


def _unpair(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows in transformers' order: rotary embeddings pair features of a head's two halves, not neighbours."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
