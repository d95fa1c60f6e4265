"""Checkpoints that NVIDIA ModelOpt exports for Hugging Face: FP8 with a scale per tensor, and NVFP4.

FP8: ``codes × weight_scale``. NVFP4: ``e2m1 × weight_scale × weight_scale_2``, with two codes per byte (the lower
nibble is the even column), one float8 scale per 16 weights and one float32 scale for all. Source:
TensorRT-Model-Optimizer,
``modelopt/torch/quantization/qtensor/nvfp4_tensor.py`` and ``modelopt/torch/export``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.formats.folder import MODELOPT_FILE, CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, Defect, Quantisation, unreadable
from invarlock.checkpoints.formats.packed import (
    PackedCheckpoint,
    PackedTensor,
    left_dense,
    matches_glob,
    shape_defects,
    stored_dtype,
    texts,
)
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

FP8, NVFP4 = "FP8", "NVFP4"
NVFP4_GROUP = 16
INPUT_SCALE = "input_scale"


@dataclass(frozen=True)
class ModelOptFormat:
    """``quant_method: modelopt`` or ``hf_quant_config.json``: FP8, NVFP4, or only the KV cache quantised."""

    name: str = "ModelOpt"
    tools: str = "NVIDIA ModelOpt"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method in ("modelopt", "modelopt_fp4")

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        stated, files = source.quantisation, source.files
        exported = source.document(MODELOPT_FILE)
        inner = exported.get("quantization")
        algorithm = stated.get("quant_algo") or (inner.get("quant_algo") if isinstance(inner, dict) else None)
        size = stated.get("group_size")
        if algorithm is None and stated.get("kv_cache_quant_algo") and not _modules(files):
            return self._open_dense(source)
        if algorithm not in (FP8, NVFP4):
            raise unreadable(source.path, self, f"quant_algo is {str(algorithm)[:40]!r}")
        if algorithm == NVFP4 and size not in (None, NVFP4_GROUP):
            raise unreadable(source.path, self, f"NVFP4 in groups of {str(size)[:40]}")
        ignore = texts(stated.get("exclude_modules") or stated.get("ignore"))
        packed: dict[str, PackedTensor] = {}
        defects: list[Defect] = []
        unread: set[str] = set()
        modules = _modules(files)
        for module in modules:
            found, problems = _packed_tensor(files, module, algorithm)
            defects += problems
            if found is None:
                unread |= {f"{module}.{part}" for part in ("weight", "weight_scale", "weight_scale_2")}
            else:
                packed[found.name] = found
            if any(matches_glob(module, pattern) for pattern in ignore):
                defects.append(Defect(f"{module}.weight", PACKING, "packed, and the config says it is left as it was"))
        defects += left_dense(files, modules, ignore)
        producer = exported.get("producer") or stated.get("producer")
        version = producer.get("version") if isinstance(producer, dict) else None
        quantisation = Quantisation(
            tool=f"ModelOpt {version[:40]}" if isinstance(version, str) else self.tools,
            method=f"{self.name} ({algorithm})",
            bits=8 if algorithm == FP8 else 4,
            activation_bits=8 if algorithm == FP8 else 4,
            group_size=0 if algorithm == FP8 else NVFP4_GROUP,
            symmetric=True,
            ignored_modules=ignore,
        )
        static = dict.fromkeys((name.removesuffix(".weight") for name in packed), (INPUT_SCALE,))
        return PackedCheckpoint(
            files, packed, frozenset(unread), tuple(defects), self.name, quantisation,
            static if _is_static(source) else {},
        )  # fmt: skip

    def _open_dense(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return a checkpoint of which only the KV cache is quantised: dense weights, and scales of the cache."""
        cache = str(source.quantisation["kv_cache_quant_algo"])[:40]
        quantisation = Quantisation(tool=self.tools, method=f"{self.name} (KV cache as {cache})")
        return PackedCheckpoint(source.files, {}, frozenset(), (), self.name, quantisation)


FORMAT = ModelOptFormat()


def _is_static(source: CheckpointFolder) -> bool:
    """Return whether inputs have stored scales, as the config says or as the scale of any module shows."""
    groups = source.quantisation.get("config_groups")
    inputs = (
        [one.get("input_activations") for one in groups.values() if isinstance(one, dict)]
        if isinstance(groups, dict)
        else []
    )
    stated = any(isinstance(one, dict) and one.get("dynamic") is False for one in inputs)
    return stated or any(name.endswith(f".{INPUT_SCALE}") for name in source.files.entries)


def _modules(files: CheckpointFiles) -> list[str]:
    """Return the modules that have codes of a matrix, or a scale without codes."""
    scaled = {
        name.rpartition(".")[0]
        for name in files.entries
        if name.rpartition(".")[2] in ("weight_scale", "weight_scale_2")
    }
    codes = {
        name.removesuffix(".weight")
        for name, entry in files.entries.items()
        if name.endswith(".weight") and entry.dtype in ("F8_E4M3", "U8") and len(entry.shape) == 2
    }
    return sorted(scaled | codes)


def _packed_tensor(files: CheckpointFiles, module: str, algorithm: str) -> tuple[PackedTensor | None, list[Defect]]:
    name, dtype = f"{module}.weight", stored_dtype(files.config)
    codes, wanted = files.entries.get(name), "U8" if algorithm == NVFP4 else "F8_E4M3"
    if codes is None:
        return None, [Defect(name, PACKING, "weight is missing")]
    if codes.dtype != wanted or len(codes.shape) != 2:
        what = f"weight is stored as {codes.dtype} of shape {list(codes.shape)}, not as a matrix of {wanted}"
        return None, [Defect(name, PACKING, what)]
    rows, columns = codes.shape[0], codes.shape[1] * (2 if algorithm == NVFP4 else 1)
    parts = {"codes": name, "scale": f"{module}.weight_scale"}
    shapes: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1))
    if algorithm == NVFP4:
        parts["scale_2"] = f"{module}.weight_scale_2"
        shapes = ((rows, -(-columns // NVFP4_GROUP)),)
    allowed = {"scale": shapes, "scale_2": ((), (1,))}
    defects = list(
        shape_defects(name, files.entries, [(parts[part], allowed[part]) for part in parts if part in allowed])
    )
    if defects:
        return None, defects
    scales = tuple(part for part in parts if part != "codes")
    return PackedTensor(name, dtype, (rows, columns), parts, scales, partial(_unpack, dtype=dtype)), []


def _unpack(parts: Mapping[str, Any], *, dtype: str) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    from invarlock.checkpoints.formats import unpacking

    scale = parts["scale"].float()
    if "scale_2" not in parts:
        return unpacking.of_dtype(parts["codes"].float() * scale, dtype)
    codes = unpacking.unpack_e2m1(parts["codes"])
    spread = unpacking.spread_groups(scale * parts["scale_2"].float(), codes.shape)
    return unpacking.of_dtype(codes * spread, dtype)
