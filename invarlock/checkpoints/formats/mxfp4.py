"""MXFP4 as gpt-oss stores it: stacks of experts as 4-bit floats in blocks of 32, with a power of two per block.

``X_blocks`` (experts, rows, blocks, 16 bytes) and ``X_scales`` (experts, rows, blocks) represent ``X`` (experts,
blocks × 32, rows): two codes per byte, the lower nibble first, times 2 to the power of ``scale − 127``. Source: OCP MX
v1.0, transformers 5.24 ``integrations/mxfp4.py`` (``convert_moe_packed_tensors``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, SCALE, Defect, Quantisation, unreadable
from invarlock.checkpoints.formats.packed import (
    PackedCheckpoint,
    PackedTensor,
    broken_exponents,
    shape_defects,
    stored_dtype,
    texts,
)
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

BLOCKS, SCALES = "_blocks", "_scales"
BLOCK_BYTES = 16


@dataclass(frozen=True)
class Mxfp4Format:
    """``quant_method: mxfp4``."""

    name: str = "MXFP4"
    tools: str = "gpt-oss"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "mxfp4"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed stacks mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when no tensor is packed, or the checkpoint is not complete.
        """
        files = source.files
        packed: dict[str, PackedTensor] = {}
        defects: list[Defect] = []
        unread: set[str] = set()
        stacks = sorted(
            {
                name.removesuffix(ending)
                for ending in (BLOCKS, SCALES)
                for name in files.entries
                if name.endswith(ending)
            }
        )
        for name in stacks:
            found, problems = _packed_tensor(files, name)
            defects += problems
            if found is None:
                unread |= {f"{name}{BLOCKS}", f"{name}{SCALES}"} & files.entries.keys()
            else:
                packed[name] = found
            if name in files.entries:
                defects.append(Defect(name, PACKING, "stored packed and dense"))
        if not stacks:
            raise unreadable(source.path, self, "its config says that it is packed, and no tensor is")
        ignored = texts(source.quantisation.get("modules_to_not_convert"))
        return PackedCheckpoint(
            files, packed, frozenset(unread), tuple(defects), self.name,
            Quantisation(self.tools, self.name, bits=4, group_size=2 * BLOCK_BYTES, symmetric=True,
                         ignored_modules=ignored),
        )  # fmt: skip


FORMAT = Mxfp4Format()


def _packed_tensor(files: CheckpointFiles, name: str) -> tuple[PackedTensor | None, list[Defect]]:
    """Return how a stack is stored (None if it cannot be read), and its defects."""
    entries = files.entries
    parts = {"codes": f"{name}{BLOCKS}", "scale": f"{name}{SCALES}"}
    codes = entries.get(parts["codes"])
    if codes is None:
        return None, [Defect(name, PACKING, f"{BLOCKS[1:]} is missing")]
    if codes.dtype != "U8" or len(codes.shape) != 4 or codes.shape[-1] != BLOCK_BYTES:
        what = f"{BLOCKS[1:]} is stored as {codes.dtype} of shape {list(codes.shape)}"
        return None, [Defect(name, PACKING, f"{what}, not as blocks of {BLOCK_BYTES} bytes")]
    experts, rows, blocks, _ = codes.shape
    defects = list(shape_defects(name, entries, [(parts["scale"], ((experts, rows, blocks),))]))
    if not defects and entries[parts["scale"]].dtype not in ("U8", "F8_E8M0"):
        defects = [Defect(name, SCALE, f"{SCALES[1:]} is stored as {entries[parts['scale']].dtype}, not as U8")]
    if defects:
        return None, defects
    dtype, shape = stored_dtype(files.config), (experts, 2 * BLOCK_BYTES * blocks, rows)
    return PackedTensor(name, dtype, shape, parts, (), partial(_unpack, dtype=dtype), _broken_exponents), []


def _broken_exponents(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from broken_exponents(parts["scale"], SCALES[1:])


def _unpack(parts: Mapping[str, Any], *, dtype: str) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    from invarlock.checkpoints.formats import unpacking

    weights = unpacking.unpack_e2m1(parts["codes"]) * unpacking.powers_of_two(parts["scale"])[..., None]
    return unpacking.of_dtype(weights.flatten(2).mT.contiguous(), dtype)
