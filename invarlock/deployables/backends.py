"""Backends: how each packs linear layers, and how its files are read back into the weights that they stand for.

A backend packs through transformers, which is how its checkpoints are served. Its files are read here without it: what
is stored is integers and scales, and the arithmetic that gives the weights is the format's definition.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from invarlock.catalog.deployables import DeployableSpec

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Backend:
    """What differs between backends.

    Attributes:
        storage_format: what its weights are stored as, for ``edit_metadata.json``.
        parts: the tensors that a packed matrix is stored as, by what they are: the suffix that takes the place of
            ``.weight``.
        config: a transformers quantization config, told the spec and the modules to leave as they are.
        unpack: float32 weights (out, in) of a matrix's parts.
    """

    storage_format: str
    parts: Mapping[str, str]
    config: Callable[[DeployableSpec, Sequence[str]], Any]
    unpack: Callable[[Parts], torch.Tensor]

    def stored_as(self, name: str) -> dict[str, str]:
        """Return the names of the tensors that a matrix is stored as, by what they are."""
        stem = name.removesuffix(".weight")
        return {part: f"{stem}{suffix}" for part, suffix in self.parts.items()}


def _torchao_config(spec: DeployableSpec, leave: Sequence[str]) -> Any:
    # imported here: it takes two seconds, and only these subjects need it
    quantization: Any = importlib.import_module("torchao.quantization")
    transformers: Any = importlib.import_module("transformers")
    rows = spec.group_size is None
    granularity = quantization.PerRow() if rows else quantization.PerGroup(spec.group_size)
    weights = quantization.Int8WeightOnlyConfig(granularity=granularity)
    return transformers.TorchAoConfig(weights, modules_to_not_convert=list(leave))


def _unpack_torchao(parts: Parts) -> torch.Tensor:
    """(q - zero point) * scale, by groups along the input dimension."""
    values, scale, zero = parts["values"].float(), parts["scale"].float(), parts["zero_point"].float()
    grouped = values.reshape(*scale.shape, -1)  # (out, groups, group)
    return ((grouped - zero[..., None]) * scale[..., None]).flatten(1)


def _bitsandbytes_config(spec: DeployableSpec, leave: Sequence[str]) -> Any:
    transformers: Any = importlib.import_module("transformers")
    return transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(leave))


# The largest magnitude of an int8 row, to which its scale belongs (Dettmers et al. 2022, LLM.int8()).
INT8_MAX = 127.0


def _unpack_bitsandbytes(parts: Parts) -> torch.Tensor:
    """q * scale / 127, a scale a row."""
    return parts["values"].float() * (parts["scale"].float() / INT8_MAX)[:, None]


BACKENDS: Mapping[str, Backend] = {
    "torchao_int8": Backend(
        "int8_grouped",
        {"values": "._weight_qdata", "scale": "._weight_scale", "zero_point": "._weight_zero_point"},
        _torchao_config,
        _unpack_torchao,
    ),
    "bitsandbytes_int8": Backend(
        "int8_rowwise",
        {"values": ".weight", "scale": ".SCB", "format": ".weight_format"},
        _bitsandbytes_config,
        _unpack_bitsandbytes,
    ),
}
