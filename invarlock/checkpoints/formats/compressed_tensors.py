"""The compressed-tensors format, which llm-compressor writes and vLLM reads.

Source: compressed-tensors 0.20 (https://github.com/vllm-project/compressed-tensors), ``compressors`` and
``quantization/lifecycle/forward_helpers.py``. A weight is ``(codes − zero point) × scale`` in the scale's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from invarlock.checkpoints.formats import module_patterns
from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, SCALE, Defect, Quantisation, unreadable
from invarlock.checkpoints.formats.module_patterns import UnusablePatternError
from invarlock.checkpoints.formats.packed import (
    DENSE_TYPES,
    PackedCheckpoint,
    PackedTensor,
    Unpack,
    bits_or_none,
    broken_exponents,
    shape_defects,
    stored_dtype,
    texts,
)
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

INT, FLOAT, PACK = "int-quantized", "float-quantized", "pack-quantized"
NVFP4, MXFP4 = "nvfp4-pack-quantized", "mxfp4-pack-quantized"
READ = (INT, FLOAT, "naive-quantized", PACK, NVFP4, MXFP4)
# A target that begins with this is a regular expression; another one is the name of a module or of a class.
EXPRESSION = "re:"
_NO_MODULES = ("embed", "wte", "wpe", "norm", "ln_")


@dataclass(frozen=True)
class Scheme:
    """How the modules of one group are quantised: an entry of the config's ``config_groups``, with its ``format``.

    ``input_scale`` is the name of the scale that each module stores for its inputs, if it stores one.
    """

    format: str
    targets: tuple[str, ...]
    bits: int
    activation_bits: int | None
    symmetric: bool
    strategy: str
    group_size: int
    block: tuple[int, int]
    input_scale: str | None

    def scale_shapes(self, rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes that the scale of a matrix may have."""
        if self.strategy in ("group", "tensor_group") and self.group_size > 0:
            return ((rows, -(-columns // self.group_size)),)
        if self.strategy == "block":
            return ((-(-rows // self.block[0]), -(-columns // self.block[1])),)
        if self.strategy == "tensor":
            return ((1,), (), (1, 1))
        return ((rows, 1), (rows,))


@dataclass(frozen=True)
class CompressedTensorsFormat:
    """``quant_method: compressed-tensors``, with its formats for integers, float8, NVFP4 and MXFP4."""

    name: str = "compressed-tensors"
    tools: str = "llm-compressor"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder's configuration names this format."""
        return source.method == "compressed-tensors"

    def open(self, source: CheckpointFolder) -> PackedCheckpoint:
        """Return the checkpoint with its packed weights mapped to names and shapes of dense ones.

        Raises:
            CheckpointError: when the configuration or the tensors have a variant that is not supported.
        """
        try:
            return self._opened(source)
        except UnusablePatternError as error:
            raise unreadable(source.path, self, str(error)) from None

    def _opened(self, source: CheckpointFolder) -> PackedCheckpoint:
        stated, files = source.quantisation, source.files
        schemes = _schemes(source, self)
        if any(stated.get(key) for key in ("transform_config", "moe_sparsity_config")):
            raise unreadable(source.path, self, "its weights are used with transforms that the files do not hold")
        sparsity = stated.get("sparsity_config") or {}
        if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
            raise unreadable(source.path, self, f"sparse, {str(sparsity.get('format'))[:40]!r}")
        ignore = _strings(stated.get("ignore"))
        packed: dict[str, PackedTensor] = {}
        defects: list[Defect] = []
        unread: set[str] = set()
        static: dict[str, tuple[str, ...]] = {}
        for module in _packed_modules(files):
            scheme = _scheme_of(module, schemes)
            if _matches_any(module, ignore):
                defects.append(Defect(f"{module}.weight", PACKING, "packed, and config.json says it is left as it was"))
            found, problems = _packed_tensor(files, module, scheme)
            defects += problems
            if found is None:
                unread |= {
                    name
                    for name in files.entries
                    if name.rpartition(".")[0] == module and name.rpartition(".")[2] != "bias"
                }
            else:
                packed[found.name] = found
                if scheme.input_scale is not None:
                    static[module] = (scheme.input_scale,)
        defects += _left_dense(files, schemes, ignore, {name.removesuffix(".weight") for name in packed})
        version = stated.get("version")
        return PackedCheckpoint(
            files, packed, frozenset(unread), tuple(defects), self.name,
            Quantisation(
                tool=f"compressed-tensors {version[:40]}" if isinstance(version, str) else self.tools,
                method=f"{self.name} ({', '.join(dict.fromkeys(scheme.format for scheme in schemes))})",
                bits=_only(scheme.bits for scheme in schemes),
                activation_bits=_only(scheme.activation_bits for scheme in schemes),
                group_size=_only(scheme.group_size for scheme in schemes),
                symmetric=_only(scheme.symmetric for scheme in schemes),
                ignored_modules=texts(stated.get("ignore")),
            ),
            static,
        )  # fmt: skip


FORMAT = CompressedTensorsFormat()


def _schemes(source: CheckpointFolder, form: CompressedTensorsFormat) -> tuple[Scheme, ...]:
    """Return the schemes of a config.

    Raises:
        CheckpointError: when a scheme is malformed or not supported.
    """
    groups, whole = source.quantisation.get("config_groups"), source.quantisation.get("format")
    if not isinstance(groups, dict) or not groups:
        raise unreadable(source.path, form, "its config has no config_groups")
    schemes = []
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else {}
        if weights is None:
            # a group for activations alone, such as those of attention
            continue
        if not isinstance(weights, dict):
            raise unreadable(source.path, form, "its config has a group without weights")
        stored = group.get("format") or whole
        bits, size, block = weights.get("num_bits"), weights.get("group_size"), weights.get("block_structure")
        if stored not in READ:
            raise unreadable(source.path, form, f"in its format {str(stored)[:40]!r}")
        if type(bits) is not int or not 1 <= bits <= 8 or (size is not None and type(size) is not int):
            raise unreadable(source.path, form, f"num_bits is {str(bits)[:40]}, group_size {str(size)[:40]}")
        strategy = str(weights.get("strategy") or ("group" if size else "channel"))
        blocks = [n for n in block if type(n) is int and n > 0] if isinstance(block, list) else []
        if strategy == "block" and len(blocks) != 2:
            raise unreadable(source.path, form, f"block_structure is {str(block)[:40]}")
        inputs = group.get("input_activations")
        schemes.append(
            Scheme(
                format=stored,
                targets=_strings(group.get("targets")),
                bits=bits,
                activation_bits=bits_or_none(inputs.get("num_bits")) if isinstance(inputs, dict) else None,
                symmetric=weights.get("symmetric") is not False,
                strategy=strategy,
                group_size=max(size or 0, 0) if strategy in ("group", "tensor_group") else 0,
                block=(blocks[0], blocks[1]) if strategy == "block" else (1, 1),
                input_scale=_input_scale(inputs) if isinstance(inputs, dict) else None,
            )
        )
    if not schemes:
        raise unreadable(source.path, form, "its config has no group with weights")
    return tuple(schemes)


def _input_scale(inputs: Mapping[str, Any]) -> str | None:
    """Return the name of the scale that each module stores for its inputs; None if they are scaled as they come."""
    dynamic = inputs.get("dynamic", False)
    return "input_scale" if dynamic is False else "input_global_scale" if dynamic == "local" else None


def _packed_modules(files: CheckpointFiles) -> Iterator[str]:
    """Yield the modules that have codes, or a scale without codes."""
    modules = {
        name.rpartition(".")[0]
        for name in files.entries
        if name.rpartition(".")[2] in ("weight_packed", "weight_scale")
    }
    codes = {
        name.removesuffix(".weight")
        for name, entry in files.entries.items()
        if name.endswith(".weight") and entry.dtype in ("I8", "F8_E4M3")
    }
    yield from sorted(modules | codes)


def _packed_tensor(files: CheckpointFiles, module: str, scheme: Scheme) -> tuple[PackedTensor | None, list[Defect]]:
    """Return how a module's weight is stored (None if it cannot be read), and its defects."""
    name, entries = f"{module}.weight", files.entries
    codes = f"{module}.weight_packed" if scheme.format in (PACK, NVFP4, MXFP4) else name
    if codes not in entries:
        return None, [Defect(name, PACKING, f"{codes.rpartition('.')[2]} is missing")]
    stored = entries[codes]
    dtypes = {PACK: ("I32",), NVFP4: ("U8",), MXFP4: ("U8",)}.get(scheme.format, ("I8", "F8_E4M3"))
    if stored.dtype not in dtypes or len(stored.shape) != 2:
        what = f"{codes.rpartition('.')[2]} is stored as {stored.dtype} of shape {list(stored.shape)}"
        return None, [Defect(name, PACKING, f"{what}, not as a matrix of {dtypes[0]}")]
    rows, columns = stored.shape
    parts = {"codes": codes, "scale": f"{module}.weight_scale"}
    scales = ["scale"]
    defects: list[Defect] = []
    if scheme.format == PACK:
        shape = _stored_shape(files, module)
        widths = {-(-shape[1] * scheme.bits // 32), -(-shape[1] // (32 // scheme.bits))} if shape else set()
        if shape is None or shape[0] != rows or columns not in widths:
            return None, [
                Defect(
                    name,
                    PACKING,
                    f"weight_shape says {shape or 'nothing'}, and {rows} × {columns} words of codes are stored",
                )
            ]
        columns = shape[1]
        parts["shape"] = f"{module}.weight_shape"
    elif scheme.format == MXFP4:
        columns *= 2
        scales.clear()
        stored_scale = entries.get(parts["scale"])
        if stored_scale is not None and stored_scale.dtype not in ("U8", "F8_E8M0"):
            return None, [Defect(name, SCALE, f"weight_scale is stored as {stored_scale.dtype}, not as U8")]
    elif scheme.format == NVFP4:
        columns *= 2
        parts["global_scale"] = f"{module}.weight_global_scale"
        scales.append("global_scale")
        defects += shape_defects(name, entries, [(parts["global_scale"], ((1,), ()))])
    shapes = scheme.scale_shapes(rows, columns)
    defects += shape_defects(name, entries, [(parts["scale"], shapes)])
    zero = f"{module}.weight_zero_point"
    if zero in entries or not scheme.symmetric:
        parts["zero"] = zero
        packed_rows = tuple((-(-shape[0] * scheme.bits // 32), *shape[1:]) for shape in shapes if shape)
        allowed = packed_rows if scheme.format == PACK and zero in entries and entries[zero].dtype == "I32" else shapes
        defects += shape_defects(name, entries, [(zero, allowed)])
    order = f"{module}.weight_g_idx"
    if order in entries:
        parts["order"] = order
        defects += shape_defects(name, entries, [(order, ((columns,),))])
    if defects:
        return None, defects
    dtype = stored_dtype(files.config) if scheme.format in (NVFP4, MXFP4) else entries[parts["scale"]].dtype
    unpack: Unpack = partial(_unpack, scheme=scheme, shape=(rows, columns), dtype=dtype)
    inspect = _broken_exponents if scheme.format == MXFP4 else None
    return PackedTensor(name, dtype, (rows, columns), parts, tuple(scales), unpack, inspect), []


def _broken_exponents(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from broken_exponents(parts["scale"], "weight_scale")


def _stored_shape(files: CheckpointFiles, module: str) -> tuple[int, int] | None:
    """Return the matrix shape in ``weight_shape``; None if it is missing or not the shape of a matrix."""
    entry = files.entries.get(f"{module}.weight_shape")
    if entry is None or entry.shape != (2,) or entry.dtype not in ("I64", "I32"):
        return None
    with safe_open(files.folder / entry.shard, framework="numpy") as stream:
        rows, columns = (int(size) for size in stream.get_tensor(entry.name))
    return (rows, columns) if rows > 0 and columns > 0 else None


def _unpack(parts: Mapping[str, Any], *, scheme: Scheme, shape: tuple[int, int], dtype: str) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    import torch

    from invarlock.checkpoints.formats import unpacking

    codes, scale, zero = parts["codes"], parts["scale"], parts.get("zero")
    if scheme.format == PACK:
        half = 1 << (scheme.bits - 1)
        codes = unpacking.unpack_words(codes, scheme.bits, shape[1]) - half
        if zero is not None and zero.dtype == torch.int32:
            zero = unpacking.unpack_words(zero.mT, scheme.bits, shape[0]).mT - half
    elif scheme.format == MXFP4:
        codes, scale = unpacking.unpack_e2m1(codes), unpacking.powers_of_two(scale)
    elif scheme.format == NVFP4:
        codes = unpacking.unpack_e2m1(codes)
        scale = scale.bfloat16() / parts["global_scale"]

    def spread(values: torch.Tensor) -> torch.Tensor:
        if scheme.strategy == "block":
            return unpacking.spread_blocks(values, scheme.block, shape)
        if "order" in parts and bool((parts["order"] >= 0).all()):
            return values[:, parts["order"].long()]
        return unpacking.spread_groups(values, shape)

    weights = codes.to(scale.dtype)
    if zero is not None:
        weights = weights - spread(zero).to(scale.dtype)
    weights = weights * spread(scale)
    # the tool rounds 4-bit floats to bfloat16, whatever the model's dtype
    return unpacking.of_dtype(weights.bfloat16() if scheme.format in (NVFP4, MXFP4) else weights, dtype)


def _scheme_of(module: str, schemes: tuple[Scheme, ...]) -> Scheme:
    """Return a module's scheme: from the group that names it, else that matches it, else that has its class.

    The classes of modules are not known here; only linear layers are packed, so the group without a matching target
    that has any class is theirs. compressed-tensors looks for targets in the same order.
    """
    by_name = (scheme for scheme in schemes if module in scheme.targets)
    expressions = sorted(
        (target, number)
        for number, scheme in enumerate(schemes)
        for target in scheme.targets
        if target.startswith(EXPRESSION)
    )
    by_expression = (schemes[number] for target, number in expressions if _matches(module, target))
    by_class = (scheme for scheme in schemes if any(map(_is_class, scheme.targets)))
    return next(chain(by_name, by_expression, by_class), schemes[0])


def _strings(value: object) -> tuple[str, ...]:
    """Return the texts in a list of a config; empty if it is not a list."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _is_class(target: str) -> bool:
    """Return whether a target is the name of a class, such as ``Linear``, which has no dots."""
    return not target.startswith(EXPRESSION) and "." not in target and target[:1].isupper()


def _left_dense(
    files: CheckpointFiles, schemes: tuple[Scheme, ...], ignore: tuple[str, ...], packed: set[str]
) -> Iterator[Defect]:
    """Yield the matrices that the config declares packed but that are stored dense."""
    targets = tuple(target for scheme in schemes for target in scheme.targets)
    for name, entry in files.entries.items():
        module, _, last = name.rpartition(".")
        if last != "weight" or len(entry.shape) != 2 or module in packed or not entry.dtype.startswith(DENSE_TYPES):
            continue
        linear = "Linear" in targets and not any(word in module for word in _NO_MODULES)
        if (linear or _matches_any(module, targets)) and not _matches_any(module, ignore):
            yield Defect(name, PACKING, f"stored as {entry.dtype}, and config.json says it is packed")


def _matches_any(module: str, patterns: tuple[str, ...]) -> bool:
    return any(_matches(module, pattern) for pattern in patterns)


def _matches(module: str, pattern: str) -> bool:
    if not pattern.startswith(EXPRESSION):
        return pattern == module
    return module_patterns.matches(pattern.removeprefix(EXPRESSION), module)


def _only(values: Iterator[Any]) -> Any:
    """Return the common value, or None if the values differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
