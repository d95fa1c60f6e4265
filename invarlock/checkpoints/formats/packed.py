"""Packed tensors in safetensors files: the common part of all formats that store a matrix as codes and scales.

A format declares which stored tensors make up each dense tensor (``PackedTensor``); other tensors are read as stored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.architectures import ARCHITECTURES
from invarlock.checkpoints.families import ROLES
from invarlock.checkpoints.formats.interface import ACTIVATIONS, PACKING, SCALE, Defect, Quantisation, Storage
from invarlock.checkpoints.safetensors_files import ITEM_BYTES, CheckpointFiles, TensorEntry, read_checkpoint
from invarlock.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MAX_TEXT, MAX_BITS = 500, 64
DENSE_TYPES = ("BF16", "F16", "F32")
Unpack = Callable[[Mapping[str, Any]], Any]
# Scales of keys, values and activations, which serving libraries know; they are not part of a weight.
EXTRAS = (
    "k_scale", "v_scale", "kv_scale", "q_scale", "prob_scale", "prob_output_scale", "input_scale", "activation_scale",
    "input_global_scale", "output_scale", "input_zero_point", "output_zero_point", "k_zero_point", "v_zero_point",
    "q_zero_point",
)  # fmt: skip
# The number of an expert in the name of a tensor.
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


@dataclass(frozen=True)
class PackedTensor:
    """A dense tensor that is stored as several parts.

    Attributes:
        name: the name of the dense tensor.
        dtype: the dtype of the dense tensor, in safetensors' notation ("BF16").
        shape: the shape of the dense tensor.
        parts: the names of the stored tensors, by their purpose ("codes", "scale"); the codes are first.
        scales: the keys of ``parts`` whose values must be finite, and not zero unless the baseline's weights are.
        unpack: makes the dense tensor from the parts, given as PyTorch tensors; it may raise ``CheckpointError``.
        inspect: yields further defects in the values of the parts: the kind of defect, and the reason.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: Mapping[str, str]
    scales: tuple[str, ...]
    unpack: Unpack
    inspect: Callable[[Mapping[str, Any]], Iterator[tuple[str, str]]] | None = None


@dataclass(frozen=True)
class PackedCheckpoint:
    """A checkpoint with some packed tensors.

    Attributes:
        stored: the tensors as they are stored.
        packed: the packed tensors that can be read, by the names of the dense tensors.
        unreadable: stored parts of dense tensors that cannot be read; ``defects`` has the reasons.
        defects: the defects found in headers and config.
        format_name: the format's common name.
        quantisation: how the weights were quantised.
        static: the names that the scale of a module's inputs may have, for the modules that need one.
        base: the folder of the dense baseline, if it is known.
    """

    stored: CheckpointFiles
    packed: Mapping[str, PackedTensor]
    unreadable: frozenset[str]
    defects: tuple[Defect, ...]
    format_name: str
    quantisation: Quantisation
    static: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    base: Path | None = None

    @cached_property
    def files(self) -> CheckpointFiles:
        """Return the entries of the dense tensors, under the names that a dense checkpoint has."""
        entries = {
            name: entry
            for name, entry in self.stored.entries.items()
            if name not in self._taken and name.rpartition(".")[2] not in EXTRAS
        }
        for name, tensor in self.packed.items():
            codes = self.stored.entries[next(iter(tensor.parts.values()))]
            size = math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
            entries[name] = TensorEntry(name, codes.shard, tensor.dtype, tensor.shape, size)
        return replace(self.stored, entries=dict(sorted(entries.items())), config=dense_config(self.stored.config))

    @cached_property
    def _taken(self) -> frozenset[str]:
        """The stored tensors that are parts of packed ones."""
        parts = {part for tensor in self.packed.values() for part in tensor.parts.values()}
        return self.unreadable.union(parts)

    def read(self, name: str) -> torch.Tensor:
        """Return one weight as a dense tensor of its logical shape, on the CPU."""
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import read_stored

        tensor = self.packed.get(name)
        if tensor is None:
            return read_stored(self.stored, name)
        found = {part: read_stored(self.stored, stored) for part, stored in tensor.parts.items()}
        try:
            dense: torch.Tensor = tensor.unpack(found)
        except (RuntimeError, ValueError, IndexError) as error:
            line = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self.stored.folder}: {name} cannot be unpacked ({line}); quantise it again"
            ) from None
        if tuple(dense.shape) != tensor.shape:
            raise CheckpointError(
                f"{self.stored.folder}: {name} unpacks to {list(dense.shape)}, not {list(tensor.shape)}; "
                "quantise it again"
            )
        return dense

    def storage(self) -> Storage:
        """Return how the weights are stored: the format, the bytes, and the number of packed weights."""
        files = self.files
        return Storage(
            format=self.format_name,
            stored_bytes=sum(entry.size_bytes for entry in self.stored.entries.values()),
            weights=files.total_parameters,
            packed_weights=sum(math.prod(tensor.shape) for tensor in self.packed.values()),
            packed_bytes=sum(
                self.stored.entries[part].size_bytes
                for tensor in self.packed.values()
                for part in tensor.parts.values()
            ),
            unpacked_modules=tuple(
                name for name, entry in files.entries.items() if len(entry.shape) > 1 and name not in self.packed
            ),
            quantisation=self.quantisation,
        )

    def check(self) -> tuple[Defect, ...]:
        """Return the defects that were found in the stored tensors, sorted by tensor."""
        found = {*self.defects, *self._broken_scales(), *self._broken_parts(), *self._broken_extras()}
        return tuple(sorted(found, key=lambda defect: (defect.tensor, defect.reason)))

    def _broken_scales(self) -> Iterator[Defect]:
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import broken_values, not_finite, read_stored

        for name, tensor in self.packed.items():
            for part in tensor.scales:
                stored = tensor.parts[part]
                scale = read_stored(self.stored, stored)
                problem = broken_values(scale)
                if problem is not None and (not_finite(scale) or not self._is_of_zeros(tensor, part, scale)):
                    yield Defect(name, SCALE, f"{stored.rpartition('.')[2]}: {problem}")

    def _is_of_zeros(self, tensor: PackedTensor, part: str, scale: torch.Tensor) -> bool:
        """Return whether all weights whose scale is zero are zero in the baseline."""
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import filled, read_stored

        base = None if self.base is None else read_checkpoint(self.base)
        if base is None or base.shapes.get(tensor.name) != tensor.shape:
            return False
        parts = {name: read_stored(self.stored, stored) for name, stored in tensor.parts.items()}
        codes = next(iter(tensor.parts))
        # with a scale of 1 where it is zero, and else 0, one of two different codes gives another weight than zero
        ones = (scale == 0).to(scale.dtype)
        low, high = (tensor.unpack({**parts, codes: code, part: ones}) for code in filled(parts[codes]))
        before: torch.Tensor = read_stored(base, tensor.name)
        return not bool((before[(low != 0) | (high != 0)] != 0).any())

    def _broken_parts(self) -> Iterator[Defect]:
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import read_stored

        for name, tensor in self.packed.items():
            if tensor.inspect is not None:
                parts = {part: read_stored(self.stored, stored) for part, stored in tensor.parts.items()}
                for kind, reason in tensor.inspect(parts):
                    yield Defect(name, kind, reason)

    def _broken_extras(self) -> Iterator[Defect]:
        """Yield the scales of activations and of the KV cache with which a server cannot compute.

        Servers use the largest scale of a block's experts for all of them. One of an expert that the calibration did
        not reach may thus be missing or zero.
        """
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import not_finite, not_positive, read_stored

        names = [name for name in self.stored.entries if name.rpartition(".")[2] in EXTRAS and name not in self._taken]
        empty: dict[str, str] = {}
        for name in names:
            values = read_stored(self.stored, name)
            infinite, zero = not_finite(values), None if name.endswith("zero_point") else not_positive(values)
            if infinite:
                yield Defect(name, ACTIVATIONS, infinite)
            elif zero:
                empty[name] = zero
        sound = {_EXPERT.sub("*", name) for name in names if name not in empty}
        for name, reason in empty.items():
            if _EXPERT.sub("*", name) not in sound:
                yield Defect(name, ACTIVATIONS, reason)
        stored = {_EXPERT.sub("*", name) for name in names}
        for module, allowed in self.static.items():
            if not any(_EXPERT.sub("*", f"{module}.{name}") in stored for name in allowed):
                reason = "missing, and the config says that inputs have stored scales"
                yield Defect(f"{module}.{allowed[0]}", ACTIVATIONS, reason)


def dense_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without its fields about packed weights."""
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    inner = plain.get("text_config")
    return {**plain, "text_config": dense_config(inner)} if isinstance(inner, dict) else plain


def stored_dtype(config: Mapping[str, Any]) -> str:
    """Return the dtype of weights that a config names, in safetensors' notation; BF16 if it names none."""
    inner = config.get("text_config")
    named = (
        config.get("dtype") or config.get("torch_dtype") or (inner.get("dtype") if isinstance(inner, dict) else None)
    )
    return {"float32": "F32", "float16": "F16"}.get(str(named).removeprefix("torch."), "BF16")


def left_dense(files: CheckpointFiles, modules: Iterable[str], ignore: tuple[str, ...]) -> Iterator[Defect]:
    """Yield the matrices of attention and FFN that are not packed although the config does not exclude them.

    ``modules`` are the modules with codes or scales, which are checked separately.
    """
    looked_at = frozenset(modules)
    for name, entry in files.entries.items():
        module = name.removesuffix(".weight")
        if module == name or len(entry.shape) != 2 or module in looked_at or not entry.dtype.startswith(DENSE_TYPES):
            continue
        if any(matches_glob(module, pattern) for pattern in ignore):
            continue
        if files.model_type in ARCHITECTURES and files.modules[name].role in ROLES:
            yield Defect(name, PACKING, f"stored as {entry.dtype}, and the config says it is packed")


def matches_glob(module: str, pattern: str) -> bool:
    """Return whether a quantiser's pattern with ``*`` matches a module or a module that contains it."""
    return any(fnmatchcase(part, pattern) for part in (module, module.rpartition(".")[2], *_parents(module)))


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def bits_or_none(value: object) -> int | None:
    """Return a number of bits; None if the config has another kind of value there."""
    return value if type(value) is int and 0 < value <= MAX_BITS else None


def texts(value: object) -> tuple[str, ...]:
    """Return the texts in a list of a config, each cut to the length allowed in a report; empty if it is not a list."""
    return tuple(one[:MAX_TEXT] for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def broken_exponents(scale: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield the defects of scales that are stored as powers of two: the value 255 is NaN (OCP MX v1.0)."""
    # imported here so that recognising the format does not need PyTorch
    from invarlock.checkpoints.formats.unpacking import exponents

    count = int((exponents(scale) == 255).sum())
    if count:
        yield SCALE, f"{name}: {count} of {scale.numel()} values {'is' if count == 1 else 'are'} not finite"


def shape_defects(
    tensor: str, entries: Mapping[str, TensorEntry], wanted: Iterable[tuple[str, tuple[tuple[int, ...], ...]]]
) -> Iterator[Defect]:
    """Yield the parts of a packed tensor that are missing or have none of their allowed shapes."""
    for name, shapes in wanted:
        last = name.rpartition(".")[2]
        if name not in entries:
            yield Defect(tensor, SCALE, f"{last} is missing")
        elif entries[name].shape not in shapes:
            yield Defect(tensor, SCALE, f"{last} has shape {list(entries[name].shape)}, not {list(shapes[0])}")
