"""The formats of bitsandbytes: int8 with a scale per row, and nf4 or fp4 with a scale per block.

int8: ``weight`` and ``SCB``, the largest magnitude of each row; a weight is ``codes × SCB ÷ 127``. 4 bits: two codes
per byte, the first in the high nibble; a weight is the code's entry in ``quant_map`` times the block's ``absmax``. With
nested quantisation, ``absmax`` is stored as 8-bit codes with their own table and scales (``nested_quant_map``,
``nested_absmax``), plus an offset. ``quant_state`` is JSON. The bytes of the codes may be stored as another dtype
(``bnb_4bit_quant_storage``), which FSDP needs.
Source: bitsandbytes 0.50 ``functional.py`` (``QuantState``, ``dequantize_4bit``, ``int8_vectorwise_dequant``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, SCALE, Defect, Quantisation, unreadable
from invarlock.checkpoints.formats.packed import PackedCheckpoint, PackedTensor, shape_defects, stored_dtype
from invarlock.checkpoints.formats.roles import left_dense
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

STATE = ".quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
# The dtypes that transformers allows for ``bnb_4bit_quant_storage``.
STORED_AS = ("U8", "I8", "F16", "BF16", "F32", "F64")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
MAX_STATE_BYTES = 4096
# The factor that bitsandbytes uses for 1/127.
INT8_STEP = 7.874015718698502e-3
_FINITE = {"map": "quant_map", "nested_map": "nested_quant_map", "nested": "nested_absmax"}
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class QuantState:
    """The ``quant_state`` of a 4-bit tensor; ``nested_block`` is 0 if its scales are not packed too."""

    kind: str
    block: int
    dtype: str
    shape: tuple[int, int]
    nested_block: int
    offset: float


@dataclass(frozen=True)
class BitsAndBytesFormat:
    """``quant_method: bitsandbytes``, or ``load_in_8bit`` and ``load_in_4bit``."""

    name: str = "bitsandbytes"
    tools: str = "bitsandbytes"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "bitsandbytes"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        stated, files = source.quantisation, source.files
        four = stated.get("load_in_4bit") is True or stated.get("_load_in_4bit") is True
        packed: dict[str, PackedTensor] = {}
        defects: list[Defect] = []
        unread: set[str] = set()
        names = sorted(_packed_names(files))
        states: list[QuantState] = []
        for name in names:
            state = _state_of(files, name)
            found, problems = _four_bit(files, name, state) if four else _eight_bit(files, name)
            defects += problems
            states += [state] if state is not None else []
            if found is None:
                unread |= {one for one in files.entries if one == name or one.startswith(f"{name}.")}
                unread |= {f"{name.removesuffix('weight')}{one}" for one in ("SCB", "weight_format")}
            else:
                packed[found.name] = found
        if not names:
            raise unreadable(source.path, self, "its config says that it is packed, and no tensor is")
        skipped = stated.get("llm_int8_skip_modules")
        exceptions = [one for one in skipped if isinstance(one, str)] if isinstance(skipped, list) else []
        defects += left_dense(files, {name.removesuffix(".weight") for name in names}, exceptions)
        kinds = {state.kind for state in states}
        return PackedCheckpoint(
            files, packed, frozenset(unread & files.entries.keys()), tuple(defects), self.name,
            Quantisation(
                tool=self.tools,
                method=f"{self.name} ({'/'.join(sorted(kinds)) if four else 'int8'})",
                bits=4 if four else 8,
                activation_bits=None if four else 8,
                group_size=next(iter({state.block for state in states}), None) if four else 0,
                symmetric=True,
                ignored_modules=tuple(exceptions),
            ),
        )  # fmt: skip


FORMAT = BitsAndBytesFormat()


def _packed_names(files: CheckpointFiles) -> Iterator[str]:
    """Yield the names of the weights that have codes or scales of either kind; some names come twice."""
    found = set()
    for name, entry in files.entries.items():
        if name.endswith(".SCB") or name.endswith(".weight_format"):
            found.add(f"{name.rpartition('.')[0]}.weight")
        elif STATE in name or name.endswith((".weight.absmax", ".weight.quant_map")):
            found.add(f"{name.partition('.weight.')[0]}.weight")
        elif name.endswith(".weight") and entry.dtype in ("I8", "U8"):
            found.add(name)
    yield from found


def _eight_bit(files: CheckpointFiles, name: str) -> tuple[PackedTensor | None, list[Defect]]:
    """Return how an int8 weight is stored (None if it cannot be read), and its defects."""
    entries, scale = files.entries, f"{name.removesuffix('weight')}SCB"
    codes = entries.get(name)
    if codes is None or codes.dtype != "I8" or len(codes.shape) != 2:
        return None, [Defect(name, PACKING, _stored_as(files, name, "a matrix of I8"))]
    defects = list(shape_defects(name, entries, [(scale, ((codes.shape[0],), (codes.shape[0], 1)))]))
    if defects:
        return None, defects
    if not entries[scale].dtype.startswith(("F16", "BF16", "F32")):
        return None, [Defect(name, SCALE, f"SCB is stored as {entries[scale].dtype}")]
    parts = {"codes": name, "scale": scale}
    layout = f"{name}_format"
    parts |= {"format": layout} if layout in entries else {}
    dtype = stored_dtype(files.config)
    unpack = partial(_unpack_int8, dtype=dtype)
    return PackedTensor(name, dtype, (codes.shape[0], codes.shape[1]), parts, (), unpack, _inspect_int8), []


def _unpack_int8(parts: Mapping[str, Any], *, dtype: str) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    from invarlock.checkpoints.formats import unpacking

    dense: torch.Tensor = parts["codes"] * parts["scale"].float().reshape(-1, 1) * INT8_STEP
    return unpacking.of_dtype(dense, dtype)


def _inspect_int8(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the defects of scales; the scale of a row of zeros may be zero."""
    scale = parts["scale"].float().reshape(-1)
    used = (parts["codes"] != 0).any(1)
    yield from _inspect_scale("SCB", scale, used)
    if "format" in parts and int(parts["format"]) != 0:
        yield PACKING, f"weight_format is {int(parts['format'])}, and codes are read by rows (0)"


def _inspect_scale(what: str, scale: torch.Tensor, used: torch.Tensor) -> Iterator[tuple[str, str]]:
    infinite, empty, negative = (~scale.isfinite()).sum(), ((scale == 0) & used).sum(), (scale < 0).sum()
    for count, reason in ((infinite, "not finite"), (empty, "zero"), (negative, "negative")):
        if count:
            yield SCALE, f"{what}: {int(count)} of {scale.numel()} values {'is' if count == 1 else 'are'} {reason}"


def _state_of(files: CheckpointFiles, name: str) -> QuantState | None:
    """Return the ``quant_state`` of a 4-bit tensor; None if it is missing or impossible."""
    found = [one for one in files.entries if one.startswith(f"{name}{STATE}")]
    entry = files.entries[found[0]] if len(found) == 1 else None
    if entry is None or entry.dtype != "U8" or entry.size_bytes > MAX_STATE_BYTES:
        return None
    with safe_open(files.folder / entry.shard, framework="numpy") as stream:
        data = stream.get_tensor(entry.name).tobytes()
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(state, dict):
        return None
    kind, block, shape = state.get("quant_type"), state.get("blocksize"), state.get("shape")
    nested, offset = state.get("nested_blocksize", 0), state.get("nested_offset", 0.0)
    if (
        kind not in KINDS
        or entry.name != f"{name}{STATE}{kind}"
        or block not in BLOCK_SIZES
        or nested not in (0, *BLOCK_SIZES)
        or state.get("dtype") not in _DTYPES
        or not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(size) is int and size > 0 for size in shape)
        or type(offset) not in (int, float)
        or not math.isfinite(offset)
    ):
        return None
    return QuantState(kind, block, _DTYPES[state["dtype"]], (shape[0], shape[1]), nested, float(offset))


def _four_bit(files: CheckpointFiles, name: str, state: QuantState | None) -> tuple[PackedTensor | None, list[Defect]]:
    """Return how a 4-bit weight is stored (None if it cannot be read), and its defects."""
    codes = files.entries.get(name)
    if codes is None or codes.dtype not in STORED_AS:
        return None, [Defect(name, PACKING, _stored_as(files, name, "bytes of 4-bit codes"))]
    if state is None:
        return None, [Defect(name, SCALE, "quant_state is missing, or says what cannot be")]
    weights = state.shape[0] * state.shape[1]
    if codes.size_bytes != -(-weights // 2):
        reason = f"quant_state says {list(state.shape)}, and {codes.size_bytes} bytes of codes are stored"
        return None, [Defect(name, PACKING, reason)]
    blocks = -(-weights // state.block)
    parts = {"codes": name, "absmax": f"{name}.absmax", "map": f"{name}.quant_map"}
    wanted: list[tuple[str, tuple[tuple[int, ...], ...]]] = [
        (parts["absmax"], ((blocks,),)), (parts["map"], ((16,),)),
    ]  # fmt: skip
    if state.nested_block:
        parts |= {"nested": f"{name}.nested_absmax", "nested_map": f"{name}.nested_quant_map"}
        wanted += [(parts["nested"], ((-(-blocks // state.nested_block),),)), (parts["nested_map"], ((256,),))]
    defects = list(shape_defects(name, files.entries, wanted))
    if not defects:
        for part, stored in parts.items():
            dtype = "U8" if part == "absmax" and state.nested_block else "F32"
            if part != "codes" and files.entries[stored].dtype != dtype:
                what = stored.rpartition(".")[2]
                defects.append(Defect(name, SCALE, f"{what} is stored as {files.entries[stored].dtype}, not {dtype}"))
    if defects:
        return None, defects
    states = next(one for one in files.entries if one.startswith(f"{name}{STATE}"))
    unpack = partial(_unpack_four, state=state)
    inspect = partial(_inspect_four, state=state)
    return PackedTensor(name, state.dtype, state.shape, {**parts, "state": states}, (), unpack, inspect), []


def _absmax(parts: Mapping[str, Any], state: QuantState) -> torch.Tensor:
    """Return the scale of each block, float32."""
    absmax: torch.Tensor = parts["absmax"]
    if state.nested_block:
        nested = parts["nested"].repeat_interleave(state.nested_block)[: absmax.numel()]
        absmax = parts["nested_map"][absmax.long()] * nested + state.offset
    return absmax


def _nibbles(parts: Mapping[str, Any], count: int) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    import torch

    codes = parts["codes"].reshape(-1).view(torch.uint8)
    return torch.stack((codes >> 4, codes & 0x0F), -1).reshape(-1)[:count].long()


def _unpack_four(parts: Mapping[str, Any], *, state: QuantState) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    from invarlock.checkpoints.formats import unpacking

    count = state.shape[0] * state.shape[1]
    scale = _absmax(parts, state).repeat_interleave(state.block)[:count]
    return unpacking.of_dtype((parts["map"][_nibbles(parts, count)] * scale).reshape(state.shape), state.dtype)


def _inspect_four(parts: Mapping[str, Any], *, state: QuantState) -> Iterator[tuple[str, str]]:
    """Yield the defects of scales and tables; the scale of a block may be zero if all its codes stand for zero."""
    # imported here so that recognising the format does not need PyTorch
    import torch

    for part, what in _FINITE.items():
        if part in parts and not bool(parts[part].isfinite().all()):
            yield SCALE, f"{what}: not finite"
            return
    if parts["map"].unique().numel() < 15:
        yield SCALE, "quant_map: fewer than 15 different values"
    if state.nested_block:
        # a scale equal to the mean of all scales is stored as zero, and rounding can make a small scale negative
        blocks = parts["absmax"].split(state.nested_block)
        lost = [i for i, one in enumerate(blocks) if parts["nested"][i] == 0 and one.unique().numel() > 1]
        if lost:
            yield SCALE, f"nested_absmax: {len(lost)} of {len(blocks)} values {'is' if len(lost) == 1 else 'are'} zero"
        return
    count = state.shape[0] * state.shape[1]
    values = parts["map"][_nibbles(parts, count)]
    values = torch.nn.functional.pad(values, (0, -count % state.block)).reshape(-1, state.block)
    yield from _inspect_scale("absmax", parts["absmax"], (values != 0).any(1))


def _stored_as(files: CheckpointFiles, name: str, wanted: str) -> str:
    entry = files.entries.get(name)
    return (
        "weight is missing"
        if entry is None
        else f"weight is stored as {entry.dtype} of shape {list(entry.shape)}, not as {wanted}"
    )
