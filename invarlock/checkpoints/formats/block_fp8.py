"""Float8 weights with a scale per block, as DeepSeek-V3, Qwen3-FP8 and transformers' FineGrainedFP8 store them.

A weight is its code times the ``weight_scale_inv`` of its block; despite its name, the scale multiplies. AutoFP8, whose
files vLLM reads under the same ``quant_method``, has one ``weight_scale`` for each tensor and states no size of a
block. Source:
DeepSeek-V3, ``inference/kernel.py`` (``weight_dequant``), transformers' ``integrations/finegrained_fp8.py`` and
``quantizers/quantizers_utils.py`` (``should_convert_module``), and vLLM's ``quantization/fp8.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, Defect, Quantisation, unreadable
from invarlock.checkpoints.formats.module_patterns import begins
from invarlock.checkpoints.formats.packed import (
    PackedCheckpoint,
    PackedTensor,
    left_dense,
    shape_defects,
    stored_dtype,
    texts,
)
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

SCALE_NAMES = ("weight_scale_inv", "weight_scale")
# The names in AutoFP8's and in transformers' files.
INPUT_SCALES = ("input_scale", "activation_scale")
DEFAULT_BLOCK = (128, 128)


@dataclass(frozen=True)
class BlockFp8Format:
    """``quant_method: fp8``: ``weight`` as F8_E4M3 and ``weight_scale_inv`` per block."""

    name: str = "block FP8"
    tools: str = "DeepSeek, Qwen and transformers"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "fp8"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        stated, files = source.quantisation, source.files
        block = _block(source, self)
        ignore = texts(stated.get("modules_to_not_convert") or stated.get("ignored_layers"))
        packed: dict[str, PackedTensor] = {}
        defects: list[Defect] = []
        unread: set[str] = set()
        modules = _modules(files)
        endings = {name.rpartition(".")[2] for name in files.entries}
        used = [name for name in SCALE_NAMES if name in endings] or SCALE_NAMES
        for module in modules:
            scale = next((name for name in used if f"{module}.{name}" in files.entries), used[0])
            found, problems = _packed_tensor(files, module, f"{module}.{scale}", block)
            defects += problems
            if found is None:
                unread |= {f"{module}.weight", *(f"{module}.{name}" for name in SCALE_NAMES)}
            else:
                packed[found.name] = found
            if any(_excludes(pattern, module) for pattern in ignore):
                defects.append(Defect(f"{module}.weight", PACKING, "packed, and config.json says it is left as it was"))
        defects += (
            defect
            for defect in left_dense(files, modules, ignore)
            # a pattern that cannot be matched might exclude any module
            if all(_excludes(pattern, defect.tensor.removesuffix(".weight")) is False for pattern in ignore)
        )
        scheme = stated.get("activation_scheme")
        quantisation = Quantisation(
            tool=None,
            method=f"{self.name} ({'a tensor' if block is None else f'{block[0]} × {block[1]}'} a scale)",
            bits=8,
            activation_bits=8 if scheme in ("dynamic", "static") else None,
            group_size=0 if block is None else block[1],
            symmetric=True,
            ignored_modules=ignore,
        )
        static = {name.removesuffix(".weight"): INPUT_SCALES for name in packed} if scheme == "static" else {}
        return PackedCheckpoint(files, packed, frozenset(unread), tuple(defects), self.name, quantisation, static)


FORMAT = BlockFp8Format()


def _block(source: CheckpointFolder, form: BlockFp8Format) -> tuple[int, int] | None:
    """Return the rows and columns of a block; None if each tensor has one scale.

    If the config has no such field, the stored scales decide.

    Raises:
        CheckpointError: when the config has another value than two sizes.
    """
    entries = source.files.entries
    scales = [entry for name, entry in entries.items() if name.rpartition(".")[2] in SCALE_NAMES]
    default = None if scales and all(entry.elements == 1 for entry in scales) else list(DEFAULT_BLOCK)
    size = source.quantisation.get("weight_block_size", default)
    if size is None:
        return None
    if isinstance(size, list) and len(size) == 2 and all(type(one) is int and one > 0 for one in size):
        return size[0], size[1]
    raise unreadable(source.path, form, f"weight_block_size is {str(size)[:40]}")


def _excludes(pattern: str, module: str) -> bool | None:
    """Return whether an entry of ``modules_to_not_convert`` excludes a module; None if it cannot be known.

    It is a pattern that matches the module or one that contains it, or the end of its name.
    """
    return module.endswith(pattern) or begins(pattern, module, r"(?:(?<=\.)|(?=\.|$))")


def _modules(files: CheckpointFiles) -> list[str]:
    """Return the modules that have float8 codes of a matrix, or a scale without codes."""
    scaled = {name.rpartition(".")[0] for name in files.entries if name.rpartition(".")[2] in SCALE_NAMES}
    codes = {
        name.removesuffix(".weight")
        for name, entry in files.entries.items()
        if name.endswith(".weight") and entry.dtype == "F8_E4M3" and len(entry.shape) == 2
    }
    return sorted(scaled | codes)


def _packed_tensor(
    files: CheckpointFiles, module: str, scale: str, block: tuple[int, int] | None
) -> tuple[PackedTensor | None, list[Defect]]:
    name, dtype = f"{module}.weight", stored_dtype(files.config)
    codes = files.entries.get(name)
    if codes is None:
        return None, [Defect(name, PACKING, "weight is missing")]
    if codes.dtype != "F8_E4M3" or len(codes.shape) != 2:
        what = f"weight is stored as {codes.dtype} of shape {list(codes.shape)}, next to scales of float8 codes"
        return None, [Defect(name, PACKING, what)]
    rows, columns = codes.shape
    blocks = ((1,), (), (1, 1)) if block is None else ((-(-rows // block[0]), -(-columns // block[1])),)
    defects = list(shape_defects(name, files.entries, [(scale, blocks)]))
    if defects:
        return None, defects
    unpack = partial(_unpack, block=block, dtype=dtype)
    return PackedTensor(name, dtype, (rows, columns), {"codes": name, "scale": scale}, ("scale",), unpack), []


def _unpack(parts: Mapping[str, Any], *, block: tuple[int, int] | None, dtype: str) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    from invarlock.checkpoints.formats import unpacking

    codes, scale = parts["codes"].float(), parts["scale"].float()
    spread = scale if block is None else unpacking.spread_blocks(scale, block, codes.shape)
    return unpacking.of_dtype(codes * spread, dtype)
