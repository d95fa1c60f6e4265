"""torchao's safetensors, as transformers writes them: 8-bit integers with a scale for each row or group.

The header's metadata names the class of each weight and its attributes, as JSON; the tensors of ``weight`` are
``_weight_qdata``, ``_weight_scale`` and ``_weight_zero_point``: ``(codes − zero point) × scale``.
Source: torchao 0.18 ``prototype/safetensors`` and ``Int8Tensor.dequantize``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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

READ = "Int8Tensor"
PARTS = ("qdata", "scale", "zero_point")
_PREFIX = "_weight_"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class TorchAOFormat:
    """``quant_method: torchao`` in safetensors, 8-bit weights."""

    name: str = "torchao"
    tools: str = "torchao"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "torchao"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors are of a variant that is not read.
        """
        files = source.files
        described = _described(files)
        odd = {str(one.get("_type"))[:40] for one in described.values()} - {"Tensor", READ}
        if odd:
            raise unreadable(source.path, self, f"as {', '.join(sorted(odd))}")
        packed: dict[str, PackedTensor] = {}
        defects: list[Defect] = []
        unread: set[str] = set()
        claimed = {name for name, one in described.items() if one.get("_type") == READ}
        stored = {
            f"{module}.weight"
            for module, _, last in (name.rpartition(".") for name in files.entries)
            if last.startswith(_PREFIX)
        }
        groups = set()
        for name in sorted(claimed | stored):
            about = described.get(name, {}).get("_data")
            found, problems = _packed_tensor(files, name, about if isinstance(about, dict) else None)
            defects += problems
            if found is None:
                unread |= {f"{name.removesuffix('weight')}{_PREFIX}{part}" for part in PARTS}
            else:
                packed[found.name] = found
                scale = files.entries[found.parts["scale"]].shape
                groups.add(0 if scale[1] == 1 else found.shape[1] // scale[1])
        if not claimed | stored:
            raise unreadable(source.path, self, "its config says that it is packed, and no tensor is")
        skipped = source.quantisation.get("modules_to_not_convert")
        exceptions = [one for one in skipped if isinstance(one, str)] if isinstance(skipped, list) else []
        defects += left_dense(files, {name.removesuffix(".weight") for name in claimed | stored}, exceptions)
        return PackedCheckpoint(
            files, packed, frozenset(unread & files.entries.keys()), tuple(defects), self.name,
            Quantisation(
                tool=self.tools,
                method=f"{self.name} ({READ})",
                bits=8,
                activation_bits=8 if any(_quantises_inputs(one) for one in described.values()) else None,
                group_size=groups.pop() if len(groups) == 1 else None,
                ignored_modules=tuple(exceptions),
            ),
        )  # fmt: skip


FORMAT = TorchAOFormat()


def _described(files: CheckpointFiles) -> dict[str, dict[str, Any]]:
    """Return what the metadata of the files says about each tensor."""
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
    return isinstance(about, dict) and about.get("act_quant_kwargs") is not None


def _packed_tensor(
    files: CheckpointFiles, name: str, about: Mapping[str, Any] | None
) -> tuple[PackedTensor | None, list[Defect]]:
    """Return how a weight is stored, None where it cannot be read, and what is wrong with it."""
    entries, module = files.entries, name.removesuffix("weight")
    parts = {part: f"{module}{_PREFIX}{part}" for part in PARTS}
    if name in entries:
        return None, [Defect(name, PACKING, "stored dense, and the metadata or its parts say it is packed")]
    codes = entries.get(parts["qdata"])
    if codes is None or codes.dtype != "I8" or len(codes.shape) != 2:
        what = "is missing" if codes is None else f"is stored as {codes.dtype} of shape {list(codes.shape)}"
        return None, [Defect(name, PACKING, f"_weight_qdata {what}")]
    if about is None:
        return None, [Defect(name, PACKING, "the metadata of the file does not say that it is packed")]
    rows, columns = codes.shape
    block, stated = about.get("block_size"), about.get("dtype")
    dtype = _DTYPES.get(str(stated.get("_data")) if isinstance(stated, dict) else "")
    if (
        dtype is None
        or not isinstance(block, list)
        or len(block) != 2
        or not all(type(size) is int and size > 0 for size in block)
        or rows % block[0]
        or columns % block[1]
    ):
        reason = f"the metadata says block_size {str(block)[:40]} and dtype {str(stated)[:60]}, of {rows} × {columns}"
        return None, [Defect(name, PACKING, reason)]
    shape = (rows // block[0], columns // block[1])
    wanted = [(parts["scale"], (shape,))]
    if parts["zero_point"] in entries:
        wanted.append((parts["zero_point"], (shape,)))
    else:
        del parts["zero_point"]
    defects = list(shape_defects(name, entries, wanted))
    if not defects and entries[parts["scale"]].dtype not in _DTYPES.values():
        defects.append(Defect(name, SCALE, f"_weight_scale is stored as {entries[parts['scale']].dtype}"))
    if defects:
        return None, defects
    unpack = partial(_unpack, block=(block[0], block[1]), dtype=dtype)
    return PackedTensor(name, dtype, (rows, columns), parts, ("scale",), unpack), []


def _unpack(parts: Mapping[str, Any], *, block: tuple[int, int], dtype: str) -> torch.Tensor:
    # imported here: who only asks for the format does not wait for PyTorch
    from invarlock.checkpoints.formats import unpacking

    codes = parts["qdata"].float()
    if "zero_point" in parts:
        codes = codes - unpacking.spread_blocks(parts["zero_point"].float(), block, codes.shape)
    scale = unpacking.spread_blocks(parts["scale"].float(), block, codes.shape)
    return unpacking.of_dtype(codes * scale, dtype)
