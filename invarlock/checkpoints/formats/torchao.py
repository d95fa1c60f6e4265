"""torchao's safetensors, as transformers writes them: integers of 1 to 8 bits with a scale per row or group.

The header's metadata give the class of each weight and its attributes, as JSON. The tensors of ``weight`` are
``_weight_qdata``, ``_weight_scale`` and ``_weight_zero_point``. ``Int8Tensor`` and ``IntxUnpackedToInt8Tensor`` (one
byte per code) are ``(codes − zero point) × scale``. ``Int4Tensor`` has two signed codes per byte, the lower nibble
first, and scales and zero points of shape (groups, rows); it is ``codes × scale + zero point``.
Source: torchao 0.18 ``prototype/safetensors``, ``Int8Tensor.dequantize``, ``IntxUnpackedToInt8Tensor.dequantize``, and
for ``Int4Tensor`` FBGEMM's ``int4_row_quantize_zp`` and ``pack_int4``, which MSLK took over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, SCALE, Defect, Quantisation, unreadable
from invarlock.checkpoints.formats.packed import PackedCheckpoint, PackedTensor, shape_defects
from invarlock.checkpoints.formats.roles import left_dense
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

BYTES, UNPACKED, NIBBLES = "Int8Tensor", "IntxUnpackedToInt8Tensor", "Int4Tensor"
READ = (BYTES, UNPACKED, NIBBLES)
PRE_SCALE = "act_pre_scale"
PARTS = ("qdata", "scale", "zero_point")
_PREFIX = "_weight_"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BITS = {f"int{bits}": bits for bits in range(1, 9)}


@dataclass(frozen=True)
class TorchAOFormat:
    """``quant_method: torchao`` in safetensors, with the classes in ``READ``."""

    name: str = "torchao"
    tools: str = "torchao"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "torchao"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        files = source.files
        described = _described(files)
        odd = {str(one.get("_type"))[:40] for one in described.values()} - {"Tensor", *READ}
        if odd:
            raise unreadable(source.path, self, f"as {', '.join(sorted(odd))}")
        if any(name.endswith(PRE_SCALE) for name in files.entries):
            raise unreadable(source.path, self, "with scales that the inputs are multiplied with first")
        packed: dict[str, PackedTensor] = {}
        defects: list[Defect] = []
        unread: set[str] = set()
        claimed = {name for name, one in described.items() if one.get("_type") in READ}
        stored = {
            f"{module}.weight"
            for module, _, last in (name.rpartition(".") for name in files.entries)
            if last.startswith(_PREFIX)
        }
        groups, bits = set(), set()
        for name in sorted(claimed | stored):
            about = _about(described.get(name, {}))
            found, problems = _packed_tensor(files, name, about)
            defects += problems
            if found is None:
                unread |= {f"{name.removesuffix('weight')}{_PREFIX}{part}" for part in PARTS}
            else:
                packed[found.name] = found
                assert about is not None
                groups.add(about.block[1] if about.block[1] < found.shape[1] else 0)
                bits.add(about.bits)
        if not claimed | stored:
            raise unreadable(source.path, self, "its config says that it is packed, and no tensor is")
        skipped = source.quantisation.get("modules_to_not_convert")
        exceptions = [one for one in skipped if isinstance(one, str)] if isinstance(skipped, list) else []
        defects += left_dense(files, {name.removesuffix(".weight") for name in claimed | stored}, exceptions)
        return PackedCheckpoint(
            files, packed, frozenset(unread & files.entries.keys()), tuple(defects), self.name,
            Quantisation(
                tool=self.tools,
                method=f"{self.name} ({', '.join(sorted({str(described[name]['_type']) for name in claimed}))})",
                bits=bits.pop() if len(bits) == 1 else None,
                activation_bits=8 if any(_quantises_inputs(one) for one in described.values()) else None,
                group_size=groups.pop() if len(groups) == 1 else None,
                ignored_modules=tuple(exceptions),
            ),
        )  # fmt: skip


FORMAT = TorchAOFormat()


def _described(files: CheckpointFiles) -> dict[str, dict[str, Any]]:
    """Return the description of each tensor in the metadata of the files."""
    found = {}
    for metadata in files.metadata.values():
        for name, text in metadata.items():
            try:
                value = json.loads(text) if text.startswith("{") else None
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and "_type" in value:
                found[name] = value
    return found


def _quantises_inputs(described: Mapping[str, Any]) -> bool:
    about = described.get("_data")
    if not isinstance(about, dict):
        return False
    floats = about.get("activation_dtype")
    return (
        any(about.get(key) is not None for key in ("act_quant_kwargs", "activation_quantization"))
        or (isinstance(floats, dict) and str(floats.get("_data")).startswith("float8"))
    )  # fmt: skip


@dataclass(frozen=True)
class _WeightMetadata:
    """A weight's metadata: its class, bits per code, block, and dtype, which is None for the scale's dtype."""

    kind: str
    bits: int
    block: tuple[int, int]
    dtype: str | None


def _about(described: Mapping[str, Any]) -> _WeightMetadata | None:
    """Return a weight's metadata; None if they are missing or impossible."""
    data, kind = described.get("_data"), described.get("_type")
    if not isinstance(data, dict) or kind not in READ:
        return None
    block, bits = data.get("block_size"), {BYTES: "int8", NIBBLES: "int4"}.get(kind) or _text(data.get("target_dtype"))
    dtype = _DTYPES.get(_text(data.get("dtype")))
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        return None
    if bits not in _BITS or (dtype is None and kind != NIBBLES):
        return None
    return _WeightMetadata(kind, _BITS[bits], (block[0], block[1]), dtype)


def _text(value: object) -> str:
    return str(value.get("_data")) if isinstance(value, dict) else ""


def _packed_tensor(
    files: CheckpointFiles, name: str, about: _WeightMetadata | None
) -> tuple[PackedTensor | None, list[Defect]]:
    """Return how a weight is stored (None if it cannot be read), and its defects."""
    entries, module = files.entries, name.removesuffix("weight")
    parts = {part: f"{module}{_PREFIX}{part}" for part in PARTS}
    if name in entries:
        return None, [Defect(name, PACKING, "stored dense, and the metadata or its parts say it is packed")]
    codes = entries.get(parts["qdata"])
    if codes is None or codes.dtype not in ("I8", "U8") or len(codes.shape) != 2:
        what = "is missing" if codes is None else f"is stored as {codes.dtype} of shape {list(codes.shape)}"
        return None, [Defect(name, PACKING, f"_weight_qdata {what}")]
    if about is None:
        return None, [Defect(name, PACKING, "the metadata of the file do not say how it is packed")]
    nibbles = about.kind == NIBBLES
    rows, columns = codes.shape[0], codes.shape[1] * (2 if nibbles else 1)
    if rows % about.block[0] or columns % about.block[1] or (nibbles and about.block[0] != 1):
        return None, [Defect(name, PACKING, f"the metadata say blocks of {about.block}, of {rows} × {columns} codes")]
    shape = (rows // about.block[0], columns // about.block[1])
    shape = (shape[1], shape[0]) if nibbles else shape
    wanted = [(parts["scale"], (shape,))]
    if parts["zero_point"] in entries or nibbles:
        wanted.append((parts["zero_point"], (shape,)))
    else:
        del parts["zero_point"]
    defects = list(shape_defects(name, entries, wanted))
    if not defects and entries[parts["scale"]].dtype not in _DTYPES.values():
        defects.append(Defect(name, SCALE, f"_weight_scale is stored as {entries[parts['scale']].dtype}"))
    if defects:
        return None, defects
    dtype = about.dtype or entries[parts["scale"]].dtype
    unpack = partial(_unpack, about=about, dtype=dtype)
    inspect = partial(_inspect, about=about)
    return PackedTensor(name, dtype, (rows, columns), parts, ("scale",), unpack, inspect), []


def _inspect(parts: Mapping[str, Any], *, about: _WeightMetadata) -> Iterator[tuple[str, str]]:
    half = 1 << (about.bits - 1)
    if about.kind == UNPACKED:
        outside = int(((parts["qdata"] < -half) | (parts["qdata"] >= half)).sum())
        if outside:
            yield PACKING, f"_weight_qdata: {outside} codes need more than the {about.bits} bits that the metadata say"
    zero = parts.get("zero_point")
    if zero is not None and zero.is_floating_point():
        count = int((~zero.isfinite()).sum())
        if count:
            yield SCALE, f"_weight_zero_point: {count} of {zero.numel()} values are not finite"


def _unpack(parts: Mapping[str, Any], *, about: _WeightMetadata, dtype: str) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    from invarlock.checkpoints.formats import unpacking

    if about.kind == NIBBLES:
        codes = unpacking.unpack_nibbles(parts["qdata"]).float()
        scale, zero = (
            unpacking.spread_blocks(parts[part].float().mT, about.block, codes.shape)
            for part in ("scale", "zero_point")
        )
        return unpacking.of_dtype(codes * scale + zero, dtype)
    codes = parts["qdata"].float()
    if "zero_point" in parts:
        codes = codes - unpacking.spread_blocks(parts["zero_point"].float(), about.block, codes.shape)
    scale = unpacking.spread_blocks(parts["scale"].float(), about.block, codes.shape)
    return unpacking.of_dtype(codes * scale, dtype)
