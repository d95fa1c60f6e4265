"""A LoRA adapter of PEFT: the baseline's tensors, with the product of two small matrices added to some of them.

A merged weight is ``W + scale × B·A``, rounded once to the dtype of W. ``scale`` is ``lora_alpha ÷ r``, or
``lora_alpha ÷ √r`` with ``use_rslora``. An adapter may also hold whole tensors of the base, as PEFT stores embedding
layers (``save_embedding_layers``); they replace the base's. Source: peft 0.21 ``tuners/lora/layer.py``
(``get_delta_weight``, ``merge``) and ``utils/save_and_load.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from invarlock.checkpoints.formats.folder import CheckpointFolder
from invarlock.checkpoints.formats.interface import PACKING, SCALE, Defect, Quantisation, Storage, unreadable
from invarlock.checkpoints.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX_FILE, SINGLE_FILE
from invarlock.checkpoints.safetensors_files import CheckpointFiles, TensorEntry, read_checkpoint, read_header
from invarlock.errors import CheckpointError

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."
ENDINGS = (".lora_A.weight", ".lora_B.weight")
EMBEDDING_ENDINGS = (".lora_embedding_A", ".lora_embedding_B")
# The names of a whole tensor of the base: with the first, of a module that the adapter also changes.
WHOLE_ENDINGS = (".base_layer.weight", ".base_layer.bias", ".weight", ".bias")
HEADS = ("lm_head", "embed_out")
DEFAULT_RANK = 8
FLOATS = ("F16", "BF16", "F32")
# If one of these options is set, a merged weight is not W + scale × B·A.
OTHER_MERGES = (
    "use_dora", "use_qalora", "lora_bias", "layer_replication", "modules_to_save", "trainable_token_indices",
    "target_parameters", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
# Initialisations that also change the base weights, so that the adapter alone does not describe the model.
OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class LowRankChange:
    """The change of one tensor: the names of A and B, their factor, and whether the tensor is stored transposed."""

    low: str
    high: str
    scale: float
    transposed: bool


@dataclass(frozen=True)
class AdapterCheckpoint:
    """A baseline with an adapter.

    Attributes:
        base: the baseline's tensors.
        stored: the adapter's tensors.
        changes: the change of each adapted tensor, by the baseline's tensor name.
        whole: the names of the adapter's tensors that replace tensors of the baseline, by the baseline's name.
        defects: the defects found in headers and config.
        quantisation: the adapter's description for the report.
    """

    base: CheckpointFiles
    stored: CheckpointFiles
    changes: Mapping[str, LowRankChange]
    whole: Mapping[str, str]
    defects: tuple[Defect, ...]
    quantisation: Quantisation

    @cached_property
    def files(self) -> CheckpointFiles:
        """Return the entries of the base, without those into which the adapter cannot be merged."""
        broken = {defect.tensor for defect in self.defects}
        entries = {name: entry for name, entry in self.base.entries.items() if name not in broken}
        return replace(self.base, folder=self.stored.folder, entries=entries)

    def read(self, name: str) -> torch.Tensor:
        """Return a weight of the base or the adapter's own, plus the scaled product of A and B if there are any."""
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import read_stored

        weight = read_stored(self.base, name)
        if name in self.whole:
            weight = read_stored(self.stored, self.whole[name]).to(weight.dtype)
        if name not in self.changes:
            return weight
        change = self.changes[name]
        low, high = (read_stored(self.stored, one).float() for one in (change.low, change.high))
        product = (high @ low) * change.scale
        merged: torch.Tensor = weight.float() + (product.mT if change.transposed else product)
        return merged.to(weight.dtype)

    def storage(self) -> Storage:
        """Return the adapter's format and bytes; nothing in it is packed."""
        return Storage(
            format=FORMAT.name,
            stored_bytes=sum(entry.size_bytes for entry in self.stored.entries.values()),
            weights=self.base.total_parameters,
            packed_weights=0,
            packed_bytes=0,
            unpacked_modules=(),
            quantisation=self.quantisation,
        )

    def check(self) -> tuple[Defect, ...]:
        """Return the defects that were found in the stored tensors, sorted by tensor."""
        return tuple(sorted({*self.defects, *self._broken()}, key=lambda defect: (defect.tensor, defect.reason)))

    def _broken(self) -> Iterator[Defect]:
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import read_stored

        for name, change in self.changes.items():
            for part in (change.low, change.high):
                count = int((~read_stored(self.stored, part).isfinite()).sum())
                if count:
                    yield Defect(name, SCALE, f"{_label(part)}: {count} values are not finite")


@dataclass(frozen=True)
class AdapterFormat:
    """A folder with ``adapter_config.json`` and without a model's weights."""

    name: str = "a PEFT adapter"
    tools: str = "peft"

    def matches(self, source: CheckpointFolder) -> bool:
        """Return whether the folder has an adapter's configuration and no weights of a model."""
        return ADAPTER_CONFIG in source.names and source.names.isdisjoint((SINGLE_FILE, INDEX_FILE))

    def open(self, source: CheckpointFolder) -> AdapterCheckpoint:
        """Return the base's checkpoint with the adapter merged into it.

        Raises:
            CheckpointError: when no base is given, or this kind of adapter is not supported.
        """
        stated = source.document(ADAPTER_CONFIG)
        if source.base is None:
            raise CheckpointError(
                f"{source.path}: a PEFT adapter without the weights of a model; name it as the subject of its base, or "
                "merge it (merge_and_unload) and save that"
            )
        self._refuse_others(source, stated)
        if ADAPTER_WEIGHTS not in source.names:
            raise CheckpointError(f"{source.path}: no {ADAPTER_WEIGHTS}; save the adapter in safetensors")
        base = read_checkpoint(source.base)
        entries, metadata = read_header(source.path / ADAPTER_WEIGHTS)
        stored = replace(
            base, folder=source.path, shards=(ADAPTER_WEIGHTS,), entries=entries, metadata={ADAPTER_WEIGHTS: metadata},
            index=None,
        )  # fmt: skip
        transposed = stated.get("fan_in_fan_out") is True
        changes: dict[str, LowRankChange] = {}
        defects: list[Defect] = []
        whole = _whole_tensors(base.entries, entries)
        self._refuse_heads(source, base, entries)
        for name in sorted({_adapted(one) for one in entries.keys() - set(whole.values())}):
            found = _change(stated, name, entries, transposed)
            problem = _problem(base.entries, entries, name, found, _rank(stated, name))
            if problem is None:
                changes[name] = found
            else:
                defects.append(Defect(name, PACKING, problem))
        for name, own in whole.items():
            if entries[own].shape != base.entries[name].shape:
                shapes = f"{list(entries[own].shape)}, the baseline's {list(base.entries[name].shape)}"
                raise unreadable(source.path, self, f"its own {name[:120]} has shape {shapes}")
            if not entries[own].dtype.startswith(FLOATS):
                raise unreadable(source.path, self, f"its own {name[:120]} is stored as {entries[own].dtype}")
        if not entries:
            raise CheckpointError(f"{source.path / ADAPTER_WEIGHTS}: it holds no tensor; save the adapter again")
        rank = stated.get("r")
        method = f"LoRA of rank {rank}{', scaled by its root' if stated.get('use_rslora') else ''}"
        version = stated.get("peft_version")
        tool = f"peft {version}" if isinstance(version, str) else self.tools
        return AdapterCheckpoint(base, stored, changes, whole, tuple(defects), Quantisation(tool, method))

    def _refuse_others(self, source: CheckpointFolder, stated: Mapping[str, Any]) -> None:
        """Refuse an adapter that is merged in another way.

        Raises:
            CheckpointError: names the option.
        """
        kind, begun, bias = stated.get("peft_type"), stated.get("init_lora_weights"), stated.get("bias")
        patterns = [stated.get("rank_pattern") or {}, stated.get("alpha_pattern") or {}]
        if kind != "LORA":
            raise unreadable(source.path, self, f"its peft_type is {str(kind)[:40]!r}")
        for option in OTHER_MERGES:
            if stated.get(option):
                raise unreadable(source.path, self, f"with {option}")
        if isinstance(begun, str) and begun.startswith(OTHER_BASES):
            raise unreadable(source.path, self, f"begun with {begun[:40]!r}, which changes the base")
        if bias not in (None, "none"):
            raise unreadable(source.path, self, f"with bias {str(bias)[:40]!r}")
        numbers = [stated.get("lora_alpha"), *(patterns[1].values() if isinstance(patterns[1], dict) else [None])]
        if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
            raise unreadable(source.path, self, f"its lora_alpha is {str(stated.get('lora_alpha'))[:40]!r}")
        if any(set("*+?\\^$|()[]") & set(str(key)) for table in patterns for key in table):
            raise unreadable(source.path, self, "with patterns of ranks or scales")

    def _refuse_heads(self, source: CheckpointFolder, base: CheckpointFiles, entries: Iterable[str]) -> None:
        """Refuse an adapter of a head that is the embedding itself, which merging changes, too.

        Raises:
            CheckpointError: names the head.
        """
        for name in sorted({_adapted(one) for one in entries} - base.entries.keys()):
            if base.tied and name.rpartition(".")[0].rpartition(".")[2] in HEADS:
                raise unreadable(source.path, self, f"it changes {name}, which the baseline ties to its embedding")


FORMAT = AdapterFormat()


def _adapted(stored: str) -> str:
    """Return the name of the baseline's tensor that a tensor of the adapter changes or replaces."""
    name = stored.removeprefix(PREFIX)
    for ending in (*ENDINGS, *EMBEDDING_ENDINGS):
        if name.endswith(ending):
            return f"{name.removesuffix(ending)}.weight"
    return name.replace(".base_layer.", ".") if name.endswith(WHOLE_ENDINGS) else f"{name}.weight"


def _whole_tensors(base: Mapping[str, TensorEntry], stored: Mapping[str, TensorEntry]) -> dict[str, str]:
    """Return the adapter's tensors that replace whole tensors of the baseline, by the baseline's name.

    PEFT finds such a tensor under ``base_layer`` if the adapter changes its module, and under its own name otherwise.
    """
    changed = {_adapted(one).rpartition(".")[0] for one in stored if one.endswith((*ENDINGS, *EMBEDDING_ENDINGS))}
    found = {}
    for one in stored:
        name = _adapted(one)
        if one.endswith((*ENDINGS, *EMBEDDING_ENDINGS)) or not one.endswith(WHOLE_ENDINGS) or name not in base:
            continue
        if one.startswith(PREFIX) and (name.rpartition(".")[0] in changed) == (".base_layer." in one):
            found[name] = one
    return found


def _change(stated: Mapping[str, Any], name: str, stored: Mapping[str, TensorEntry], transposed: bool) -> LowRankChange:
    """Return the change of a tensor of the baseline; its matrices need not exist."""
    module = f"{PREFIX}{name.removesuffix('.weight')}"
    embedding = not stored.keys().isdisjoint(f"{module}{ending}" for ending in EMBEDDING_ENDINGS)
    low, high = (f"{module}{ending}" for ending in (EMBEDDING_ENDINGS if embedding else ENDINGS))
    return LowRankChange(low, high, _scale(stated, name), embedding or transposed)


def _problem(
    base: Mapping[str, TensorEntry], stored: Mapping[str, TensorEntry], name: str, change: LowRankChange, rank: object
) -> str | None:
    """Return what is wrong with the two matrices of a tensor; None if they fit it and the config."""
    found = [stored.get(part) for part in (change.low, change.high)]
    low, high = found
    labels = [_label(part) for part in (change.low, change.high)]
    if low is None or high is None:
        missing = [label for label, one in zip(labels, found, strict=True) if one is None]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, or of another kind than LoRA's"
    if name not in base:
        return "the adapter changes it, and the baseline has no such tensor"
    if any(not one.dtype.startswith(FLOATS) for one in (low, high)):
        return f"{labels[0]} is stored as {low.dtype}, {labels[1]} as {high.dtype}"
    if len(low.shape) != 2 or len(high.shape) != 2 or low.shape[0] != high.shape[1]:
        return f"{labels[0]} has shape {list(low.shape)}, {labels[1]} {list(high.shape)}, which have no product"
    made = (low.shape[1], high.shape[0]) if change.transposed else (high.shape[0], low.shape[1])
    if base[name].shape != made:
        return f"{labels[1]}·{labels[0]} has shape {list(made)}, and the baseline's tensor {list(base[name].shape)}"
    if low.shape[0] != rank:
        return f"{labels[0]} has rank {low.shape[0]}, and {ADAPTER_CONFIG} says {str(rank)[:40]}"
    return None


def _label(part: str) -> str:
    """Return the part of a stored name that says which matrix it is, such as ``lora_A``."""
    return part.removesuffix(".weight").rpartition(".")[2]


def _of_module(patterns: object, name: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, else the default."""
    module = name.removesuffix(".weight")
    table = patterns if isinstance(patterns, dict) else {}
    return next((value for key, value in table.items() if f".{module}".endswith(f".{key}")), default)


def _rank(stated: Mapping[str, Any], name: str) -> Any:
    """Return the rank that the config states for a module."""
    return _of_module(stated.get("rank_pattern"), name, stated.get("r", DEFAULT_RANK))


def _scale(stated: Mapping[str, Any], name: str) -> float:
    """Return the factor of a module's change; 0 for an impossible rank, which is a defect of its own."""
    rank, alpha = _rank(stated, name), _of_module(stated.get("alpha_pattern"), name, stated["lora_alpha"])
    if type(rank) is not int or rank < 1:
        return 0.0
    return float(alpha) / (math.sqrt(rank) if stated.get("use_rslora") is True else rank)
