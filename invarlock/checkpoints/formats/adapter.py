"""A LoRA adapter of PEFT: the baseline's tensors, with the product of two small matrices added to some of them.

A merged weight is ``W + scale × B·A``, rounded once to the dtype of W. ``scale`` is ``lora_alpha ÷ r``, or
``lora_alpha ÷ √r`` with ``use_rslora``. Source: peft 0.21 ``tuners/lora/layer.py`` (``get_delta_weight``, ``merge``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
# If one of these options is set, a merged weight is not W + scale × B·A.
OTHER_MERGES = (
    "use_dora", "use_qalora", "lora_bias", "layer_replication", "modules_to_save", "trainable_token_indices",
    "target_parameters", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
# Initialisations that also change the base weights, so that the adapter alone does not describe the model.
OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class AdapterCheckpoint:
    """A baseline with an adapter.

    Attributes:
        base: the baseline's tensors.
        stored: the adapter's tensors.
        scales: the factor of each adapted tensor, by the baseline's tensor name.
        transposed: whether the baseline stores matrices (inputs, outputs), as GPT-2 does.
        defects: the defects found in headers and config.
        quantisation: the adapter's description for the report.
    """

    base: CheckpointFiles
    stored: CheckpointFiles
    scales: Mapping[str, float]
    transposed: bool
    defects: tuple[Defect, ...]
    quantisation: Quantisation

    @cached_property
    def files(self) -> CheckpointFiles:
        """Return the entries of the base, without those into which the adapter cannot be merged."""
        broken = {defect.tensor for defect in self.defects}
        entries = {name: entry for name, entry in self.base.entries.items() if name not in broken}
        return replace(self.base, folder=self.stored.folder, entries=entries)

    def read(self, name: str) -> torch.Tensor:
        """Return a weight of the base, plus the scaled product of the adapter's two matrices if it has them."""
        # imported here so that recognising the format does not need PyTorch
        from invarlock.checkpoints.formats.unpacking import read_stored

        weight = read_stored(self.base, name)
        if name not in self.scales:
            return weight
        low, high = (read_stored(self.stored, one).float() for one in _parts(name))
        change = (high @ low) * self.scales[name]
        merged: torch.Tensor = weight.float() + (change.mT if self.transposed else change)
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

        for name in self.scales:
            for part in _parts(name):
                count = int((~read_stored(self.stored, part).isfinite()).sum())
                if count:
                    yield Defect(name, SCALE, f"{part.rsplit('.', 2)[1]}: {count} values are not finite")


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
        scales: dict[str, float] = {}
        defects: list[Defect] = []
        for name in sorted({_adapted(one) for one in entries}):
            problem = _problem(base.entries, entries, name, transposed)
            if problem is None:
                scales[name] = _scale(stated, name, entries[_parts(name)[0]].shape[0])
            else:
                defects.append(Defect(name, PACKING, problem))
        if not entries:
            raise CheckpointError(f"{source.path / ADAPTER_WEIGHTS}: it holds no tensor; save the adapter again")
        rank = stated.get("r")
        method = f"LoRA of rank {rank}{', scaled by its root' if stated.get('use_rslora') else ''}"
        version = stated.get("peft_version")
        tool = f"peft {version}" if isinstance(version, str) else self.tools
        return AdapterCheckpoint(base, stored, scales, transposed, tuple(defects), Quantisation(tool, method))

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


FORMAT = AdapterFormat()


def _adapted(stored: str) -> str:
    """Return the name of the baseline's tensor that a tensor of the adapter changes."""
    for ending in ENDINGS:
        stored = stored.removesuffix(ending)
    return f"{stored.removeprefix(PREFIX)}.weight"


def _parts(name: str) -> tuple[str, str]:
    """Return the names of A and B for a tensor of the baseline."""
    module = name.removesuffix(".weight")
    return f"{PREFIX}{module}{ENDINGS[0]}", f"{PREFIX}{module}{ENDINGS[1]}"


def _problem(
    base: Mapping[str, TensorEntry], stored: Mapping[str, TensorEntry], name: str, transposed: bool
) -> str | None:
    """Return what is wrong with the two matrices of a tensor; None if they fit it."""
    found = [stored.get(part) for part in _parts(name)]
    low, high = found
    if low is None or high is None:
        missing = [ending.split(".")[1] for ending, one in zip(ENDINGS, found, strict=True) if one is None]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, or of another kind than LoRA's"
    if name not in base:
        return "the adapter changes it, and the baseline has no such tensor"
    if any(not one.dtype.startswith(("F16", "BF16", "F32")) for one in (low, high)):
        return f"lora_A is stored as {low.dtype}, lora_B as {high.dtype}"
    if len(low.shape) != 2 or len(high.shape) != 2 or low.shape[0] != high.shape[1]:
        return f"lora_A has shape {list(low.shape)}, lora_B {list(high.shape)}, which have no product"
    made = (low.shape[1], high.shape[0]) if transposed else (high.shape[0], low.shape[1])
    if base[name].shape != made:
        return f"lora_B·lora_A has shape {list(made)}, and the baseline's tensor {list(base[name].shape)}"
    return None


def _scale(stated: Mapping[str, Any], name: str, rank: int) -> float:
    """Return the factor of a module's change; a pattern in the config matches the end of a module's name."""
    module = name.removesuffix(".weight")
    patterns = stated.get("alpha_pattern") or {}
    alpha = next((v for key, v in patterns.items() if f".{module}".endswith(f".{key}")), stated["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if stated.get("use_rslora") is True else rank)
