"""The layout of GPTQ and AWQ weights: ``qweight``, ``qzeros``, ``scales`` and ``g_idx`` of each module.

A module's weight is ``(codes − zero point) × scale`` in the scale's dtype, transposed: the files store (inputs,
outputs).
Source: AutoGPTQ 0.7 ``qlinear_cuda_old``, GPTQModel 7 ``convert_gptq_v1_to_v2_format``, AutoAWQ 0.2
``WQLinear_GEMM`` and ``dequantize_gemm``, auto-round 0.16 ``bit_packing``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, Defect, Format, Quantisation, unreadable
from invarlock.checkpoints.formats.module_patterns import begins
from invarlock.checkpoints.formats.packed import PackedCheckpoint, PackedTensor, shape_defects
from invarlock.checkpoints.formats.roles import left_dense
from invarlock.checkpoints.safetensors_files import CheckpointFiles

if TYPE_CHECKING:
    import torch

ENDINGS = ("qweight", "qzeros", "scales", "g_idx")
# The order in which AWQ packs eight columns into a word, lowest bits first.
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
# The characters by which auto-round tells a pattern from the name of a module.
_SPECIAL = re.compile(r"[*+?^$()\[\]{}|\\]")


@dataclass(frozen=True)
class Override:
    """The settings that a config gives to some modules.

    Attributes:
        name: the name of a module, or a pattern that matches the beginning of names.
        bits: bits per code; None if the modules are not packed.
        group_size: inputs that share a scale; 0 if all inputs do.
    """

    name: str
    bits: int | None
    group_size: int


@dataclass(frozen=True)
class Layout:
    """How to read the words of all modules.

    Attributes:
        bits: bits per code, from the config.
        group_size: inputs that share a scale; 0 if all inputs do.
        names: the settings of single modules.
        patterns: the settings of modules without such settings; the first pattern that matches counts.
        along_outputs: whether a word has codes of several outputs (AWQ) or of several inputs (GPTQ).
        zero_offset: the number to add to a stored zero point: 1 in the first version of GPTQ.
    """

    bits: int
    group_size: int
    names: Mapping[str, Override]
    patterns: tuple[Override, ...]
    along_outputs: bool
    zero_offset: int

    @property
    def settings(self) -> frozenset[tuple[int, int]]:
        """Return the bits and group sizes that packed modules may have."""
        found = {(one.bits, one.group_size) for one in (*self.names.values(), *self.patterns) if one.bits is not None}
        return frozenset({(self.bits, self.group_size), *found})

    def settings_of(self, modules: Sequence[str]) -> dict[str, tuple[tuple[int, int], ...]]:
        """Return the bits and group sizes that each packed module may have; none if the config excludes it.

        It is one pair, unless an override may or may not match the module: one with a pattern that cannot be matched,
        or one that matches no module, because it may be written for other names than the files have.
        """
        matched = [[begins(one.name, module) for module in modules] for one in self.patterns]
        idle = [self.names[name] for name in self.names.keys() - {*modules}]
        idle += [one for one, row in zip(self.patterns, matched, strict=True) if not any(row)]
        perhaps = dict.fromkeys((one.bits, one.group_size) for one in idle if one.bits is not None)
        found = {}
        for number, module in enumerate(modules):
            hits = (one for one, row in zip(self.patterns, matched, strict=True) if row[number])
            own = self.names.get(module) or next(hits, Override("", self.bits, self.group_size))
            found[module] = () if own.bits is None else ((own.bits, own.group_size), *perhaps)
        return found


def read_layout(source: CheckpointFolder, form: Format, *, along_outputs: bool, zero_offset: int) -> Layout:
    """Return the layout that a config describes.

    Raises:
        CheckpointError: when bits or group size are missing or impossible.
    """
    stated = source.quantisation
    bits = stated.get("bits", stated.get("w_bit"))
    size = stated.get("group_size", stated.get("q_group_size", -1))
    if type(bits) is not int or not 2 <= bits <= 8 or type(size) is not int or size < -1:
        raise unreadable(source.path, form, f"bits is {str(bits)[:40]}, group_size {str(size)[:40]}")
    # GPTQModel's table, with ``-:`` before the patterns of modules that are not packed
    patterns = list(_overrides(stated.get("dynamic"), bits, size))
    # auto-round's table, whose patterns have a special character
    extra = list(_overrides(stated.get("extra_config"), bits, size))
    names = {one.name: one for one in extra if _SPECIAL.search(one.name) is None}
    patterns += [one for one in extra if one.name not in names]
    return Layout(bits, max(size, 0), names, tuple(patterns), along_outputs, zero_offset)


def _overrides(table: object, bits: int, size: int) -> Iterator[Override]:
    """Yield the settings in a table of a config; what they do not state is ``bits`` and ``size``."""
    for name, one in _tables(table).items():
        settings = one if isinstance(one, dict) else {}
        own, groups = settings.get("bits", bits), settings.get("group_size", size)
        if type(own) is int and own >= 2 and type(groups) is int and groups >= -1:
            packed = own <= 8 and not name.startswith("-:")
            yield Override(name.removeprefix("-:").removeprefix("+:"), own if packed else None, max(groups, 0))


def open_words(source: CheckpointFolder, form: Format, layout: Layout, method: str) -> PackedCheckpoint:
    """Return the reader of a checkpoint whose modules have ``qweight`` and the other tensors of this layout."""
    stated, files = source.quantisation, source.files
    packed: dict[str, PackedTensor] = {}
    defects: list[Defect] = []
    unread: set[str] = set()
    modules = sorted(
        {name.rpartition(".")[0] for name in files.entries if name.rpartition(".")[2] in (*ENDINGS[:2], "g_idx")}
    )
    settings = layout.settings_of(modules)
    for module in modules:
        found, problems = _packed_tensor(files, module, layout, settings[module] or sorted(layout.settings))
        defects += problems
        if found is None:
            unread |= {f"{module}.{ending}" for ending in ENDINGS} & files.entries.keys()
        else:
            packed[found.name] = found
        if f"{module}.weight" in files.entries:
            defects.append(Defect(f"{module}.weight", PACKING, "stored packed and dense"))
            unread.add(f"{module}.weight")
    exceptions = left_out(stated)
    defects += left_dense(files, set(modules), exceptions)
    defects += [
        Defect(f"{module}.weight", PACKING, "packed, and config.json says it is left as it was")
        for module in modules
        if module in exceptions or not settings[module]
    ]
    if not modules:
        raise unreadable(source.path, form, "its config says that it is packed, and no tensor is")
    symmetric = stated.get("sym", not stated["zero_point"] if isinstance(stated.get("zero_point"), bool) else None)
    return PackedCheckpoint(
        files, packed, frozenset(unread), tuple(defects), form.name,
        Quantisation(
            tool=_tool(stated, form),
            method=method,
            bits=layout.bits if len({bits for bits, _ in layout.settings}) == 1 else None,
            group_size=layout.group_size if len({size for _, size in layout.settings}) == 1 else None,
            symmetric=symmetric if isinstance(symmetric, bool) else None,
            ignored_modules=tuple(sorted(exceptions)),
            calibration=stated["dataset"] if isinstance(stated.get("dataset"), str) else None,
        ),
    )  # fmt: skip


def left_out(stated: Mapping[str, Any]) -> frozenset[str]:
    """Return the names or patterns of the modules that a config excludes from packing."""
    names = stated.get("modules_to_not_convert")
    found = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    extra = _tables(stated.get("extra_config")).items()
    found |= {name for name, one in extra if isinstance(one, dict) and type(one.get("bits")) is int and one["bits"] > 8}
    return frozenset(found | {name for name in _tables(stated.get("dynamic")) if name.startswith("-:")})


def _packed_tensor(
    files: CheckpointFiles, module: str, layout: Layout, settings: Sequence[tuple[int, int]]
) -> tuple[PackedTensor | None, list[Defect]]:
    """Return how a module's weight is stored (None if it cannot be read), and its defects.

    Args:
        files: the stored tensors.
        module: the module's name.
        layout: how all modules are stored.
        settings: the bits and group sizes that the config allows for this module.
    """
    name, entries = f"{module}.weight", files.entries
    parts = {part: f"{module}.{part}" for part in ENDINGS if f"{module}.{part}" in entries}
    missing = [part for part in ENDINGS[:3] if part not in parts]
    if missing:
        return None, [Defect(name, PACKING, f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")]
    words, zeros, scales = (entries[parts[part]] for part in ENDINGS[:3])
    odd = [one for one in (words, zeros, scales) if len(one.shape) != 2]
    odd += [one for one in (words, zeros) if one.dtype != "I32"]
    odd += [scales] if scales.dtype not in ("F16", "BF16", "F32") else []
    if odd:
        last = odd[0].name.rpartition(".")[2]
        return None, [Defect(name, PACKING, f"{last} is stored as {odd[0].dtype} of shape {list(odd[0].shape)}")]
    outputs = scales.shape[1]
    bits = 32 * zeros.shape[1] // max(outputs, 1)
    sizes = [size for one, size in settings if one == bits]
    if not sizes:
        reason = f"config.json says {settings[0][0]} bits, and {zeros.shape[1]} words hold {outputs} zero points"
        return None, [Defect(name, PACKING, reason)]
    inputs = words.shape[0] if layout.along_outputs else 32 * words.shape[0] // bits
    wanted = (inputs, outputs * bits // 32) if layout.along_outputs else (inputs * bits // 32, outputs)
    counts = {-(-inputs // size) if size else 1: size or max(inputs, 1) for size in reversed(sizes)}
    groups = scales.shape[0] if scales.shape[0] in counts else list(counts)[-1]
    group = counts[groups]
    defects = list(
        shape_defects(
            name, entries,
            [
                (parts["qweight"], (wanted,)), (parts["qzeros"], ((groups, outputs * bits // 32),)),
                (parts["scales"], ((groups, outputs),)),
            ] + ([(parts["g_idx"], ((inputs,),))] if "g_idx" in parts else []),
        )
    )  # fmt: skip
    if defects:
        return None, defects
    unpack = partial(_unpack, bits=bits, along_outputs=layout.along_outputs, offset=layout.zero_offset, group=group)
    inspect = partial(_out_of_range, groups=groups) if "g_idx" in parts else None
    return PackedTensor(name, scales.dtype, (outputs, inputs), parts, ("scales",), unpack, inspect), []


def _out_of_range(parts: Mapping[str, Any], *, groups: int) -> Iterator[tuple[str, str]]:
    index = parts["g_idx"]
    outside = int(((index < 0) | (index >= groups)).sum())
    if outside:
        yield PACKING, f"g_idx: {outside} of {index.numel()} values name none of the {groups} groups"


def _unpack(parts: Mapping[str, Any], *, bits: int, along_outputs: bool, offset: int, group: int) -> torch.Tensor:
    # imported here so that recognising the format does not need PyTorch
    import torch

    from invarlock.checkpoints.formats import unpacking

    scales = parts["scales"]
    groups, outputs = scales.shape
    zeros = parts["qzeros"]
    if offset and 32 % bits == 0:
        # added to whole words, as GPTQModel subtracts it from whole words: a zero point of 0 borrows from the next one
        ones = sum(1 << place for place in range(0, 32, bits))
        zeros = unpacking.unpack_words(zeros + torch.tensor(ones - (ones >> 31 << 32)).int(), bits, outputs)
    else:
        zeros = (unpacking.unpack_words(zeros, bits, outputs) + offset) & ((1 << bits) - 1)
    if along_outputs:
        order = torch.tensor([8 * word + place for word in range(outputs // 8) for place in AWQ_ORDER])
        codes = unpacking.unpack_words(parts["qweight"], bits, outputs)[:, order]
        zeros = zeros[:, order]
    else:
        codes = unpacking.unpack_words(parts["qweight"].mT, bits, 32 * parts["qweight"].shape[0] // bits).mT
    inputs = codes.shape[0]
    index = parts["g_idx"].long().clamp(0, groups - 1) if "g_idx" in parts else torch.arange(inputs) // group
    dense: torch.Tensor = scales[index] * (codes - zeros[index]).to(scales.dtype)
    return dense.mT.contiguous()


def _tables(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _tool(stated: Mapping[str, Any], form: Format) -> str:
    """Return the tool that wrote the checkpoint, as far as the config states it."""
    quantizer = _tables(stated.get("meta")).get("quantizer")
    if isinstance(quantizer, list) and quantizer and isinstance(quantizer[0], str):
        return quantizer[0].replace(":", " ", 1)
    if stated.get("autoround_version") or stated.get("provider") == "auto-round":
        return f"auto-round {stated.get('autoround_version') or ''}".strip()
    return form.tools
