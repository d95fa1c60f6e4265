"""Backends: how each packs linear layers, and the tensors in which a packed layer is stored.

A backend packs through transformers, which also serves its checkpoints. ``checkpoints.formats`` reads them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invarlock.catalog.deployables import DeployableSpec


@dataclass(frozen=True)
class Backend:
    """The properties of a backend.

    Attributes:
        storage_format: the storage format of its weights, for ``edit_metadata.json``.
        parts: the tensors of a packed matrix by role: the suffix that replaces
            ``.weight``.
        config: returns a transformers quantization config, given the spec and the modules to leave unchanged.
    """

    storage_format: str
    parts: Mapping[str, str]
    config: Callable[[DeployableSpec, Sequence[str]], Any]

    def stored_as(self, name: str) -> dict[str, str]:
        """Return the names of the tensors in which a matrix is stored, by role."""
        stem = name.removesuffix(".weight")
        return {part: f"{stem}{suffix}" for part, suffix in self.parts.items()}


def _torchao_config(spec: DeployableSpec, leave: Sequence[str]) -> Any:
    # imported here because it takes two seconds, and only these subjects need it
    quantization: Any = importlib.import_module("torchao.quantization")
    transformers: Any = importlib.import_module("transformers")
    rows = spec.group_size is None
    granularity = quantization.PerRow() if rows else quantization.PerGroup(spec.group_size)
    weights = quantization.Int8WeightOnlyConfig(granularity=granularity)
    return transformers.TorchAoConfig(weights, modules_to_not_convert=list(leave))


def _bitsandbytes_config(spec: DeployableSpec, leave: Sequence[str]) -> Any:
    transformers: Any = importlib.import_module("transformers")
    return transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(leave))


BACKENDS: Mapping[str, Backend] = {
    "torchao_int8": Backend(
        "int8_grouped",
        {"values": "._weight_qdata", "scale": "._weight_scale", "zero_point": "._weight_zero_point"},
        _torchao_config,
    ),
    "bitsandbytes_int8": Backend(
        "int8_rowwise",
        {"values": ".weight", "scale": ".SCB", "format": ".weight_format"},
        _bitsandbytes_config,
    ),
}
