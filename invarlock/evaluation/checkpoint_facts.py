"""Reading a checkpoint once, tensor by tensor, and measuring what the guards on weights need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from invarlock.checkpoints.architectures import Role
from invarlock.checkpoints.equivalence import finding
from invarlock.checkpoints.families import Module, has_table
from invarlock.checkpoints.formats.interface import Checkpoint
from invarlock.checkpoints.safetensors_files import CheckpointFiles
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.evaluation.configuration_facts import configuration_facts
from invarlock.evaluation.memory import return_freed_memory
from invarlock.evaluation.tokenizer_facts import TokenizerFacts
from invarlock.guards import GUARDS
from invarlock.guards.guard import TensorMeasure
from invarlock.measuring import invariants, spectral, weight_changes
from invarlock.reports.derivation import contract_hash
from invarlock.stages import counted

# How the spectral guard measures matrices and their changes.
SPECTRAL_CONTRACT: Mapping[str, Any] = {
    **spectral.CONTRACT,
    "changes": dict(weight_changes.CONTRACT),
    "equivalence": dict(finding.CONTRACT),
}
# Measurements that are made tensor by tensor, by guard.
ROW_MEASURES: Mapping[str, TensorMeasure] = {guard.name: guard.measure for guard in GUARDS if guard.measure is not None}
# How the guards on weights measure.
WEIGHT_CONTRACTS: Mapping[str, Mapping[str, Any]] = {
    "invariants": invariants.CONTRACT,
    "spectral": SPECTRAL_CONTRACT,
    **{guard: measure.contract for guard, measure in ROW_MEASURES.items()},
}
# Matrices of one shape are measured in batches of at most 256 MB of float32 (a larger matrix is measured alone).
# Batches are faster on a GPU. On a CPU they are not, and waiting matrices take memory.
GPU_BATCH_ELEMENTS = 1 << 26
CPU_BATCH_ELEMENTS = 1 << 20
# Measuring a change needs both sides and some copies of them.
SIDES = 4
# The dimension of the hidden units of an FFN in a matrix of shape (out, in).
UNIT_DIMENSIONS: Mapping[Role, int] = {"gate": 0, "up": 0, "down": 1}
# Reordered hidden units change every matrix by more than this; rounding changes every matrix by less.
REORDERED_RELATIVE = 0.5
SPECTRAL_FAMILIES = frozenset(spectral.CONTRACT["scope"])
CONFIG_KEYS: Mapping[str, tuple[str, ...]] = {
    "model_type": ("model_type",),
    "vocab_size": ("vocab_size",),
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_experts": ("num_local_experts", "num_experts"),
    "tie_word_embeddings": ("tie_word_embeddings",),
}


@dataclass(frozen=True)
class CheckpointFacts:
    """The raw measurements of the guards on weights, in the form that a report stores.

    ``changes`` has the matrices whose bytes differ from the baseline's; it is empty for a baseline. ``rows`` has the
    measurements made tensor by tensor, by guard. ``canonical`` has the spectra and changes of matrices that are
    compared in another form than the stored one; it is None if all matrices are compared as they are stored.
    """

    invariants: dict[str, Any]
    spectral: dict[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    canonical: dict[str, Any] | None = None

    @property
    def by_guard(self) -> dict[str, dict[str, Any]]:
        """Return one side's raw part of each guard on weights."""
        return {"invariants": self.invariants, "spectral": self.spectral, **self.rows}

    def against(self, baseline: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the raw part of each guard on weights, given the baseline's side of each."""
        raw = {guard: {"baseline": baseline[guard], "subject": own} for guard, own in self.by_guard.items()}
        raw["spectral"]["changes"] = self.changes
        if self.canonical is not None:
            raw["spectral"]["canonical"] = self.canonical
        return raw

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> CheckpointFacts:
        """Return the facts of a baseline from one side's raw part of each guard on weights."""
        rows = {guard: raw[guard] for guard in ROW_MEASURES}
        return cls(raw["invariants"], raw["spectral"], rows=rows)


@dataclass(frozen=True)
class BaselineWeights:
    """A baseline to compare a checkpoint with: its folder, and the facts of its weights."""

    folder: Path
    facts: CheckpointFacts


def measure_checkpoint(
    folder: Path, tokenizer: TokenizerFacts | None, against: BaselineWeights | None = None
) -> CheckpointFacts:
    """Return the facts of a checkpoint, read from its files without loading the model.

    Each tensor is read once; the baseline's tensor is read only if its digest differs. Packed tensors are read as the
    dense tensors that they represent. Measurements of identical baseline tensors are reused. Peak memory on a CPU is
    the largest matrix as stored on both sides plus two float32 copies; on a GPU it is one batch of them.

    Args:
        folder: the checkpoint.
        tokenizer: the facts of its tokenizer, or None if they are not known.
        against: its baseline, or None if the checkpoint is a baseline itself.

    Raises:
        CheckpointError: when a folder is not a complete checkpoint of a supported format.
    """
    return_freed_memory()
    base = None if against is None else open_checkpoint(against.folder)
    checkpoint = open_checkpoint(folder, None if against is None else against.folder)
    files = checkpoint.files
    tensors: dict[str, dict[str, Any]] = {}
    spectra: dict[str, dict[str, Any]] = {}
    changes: dict[str, dict[str, Any]] = {}
    waiting: dict[tuple[int, ...], list[tuple[str, str, torch.Tensor]]] = {}
    changed: dict[tuple[int, ...], list[_Pair]] = {}
    rows: dict[str, dict[str, Any]] = {guard: {} for guard in ROW_MEASURES}
    most = GPU_BATCH_ELEMENTS if torch.cuda.is_available() else CPU_BATCH_ELEMENTS
    ties = _embedding_facts(checkpoint)
    for name, tensor in counted(_read_tensors(checkpoint), "weights", len(files.entries)):
        module = files.modules[name]
        tensors[name] = {
            "digest": invariants.tensor_digest(tensor),
            "dtype": files.entries[name].dtype,
            "family": module.family,
            "nonfinite": invariants.count_nonfinite(tensor),
            "shape": list(tensor.shape),
            **({"zero": True} if invariants.has_negative_zeros_alone(tensor) else {}),
        }
        known = _known(against, name, tensors[name])
        for guard, measure in ROW_MEASURES.items():
            contract = contract_hash(measure.contract)
            if known is not None and known.rows[guard]["measurement_contract_hash"] == contract:
                row = known.rows[guard]["modules"].get(name)
            else:
                row = measure.of_tensor(name, module.family, tensor)
            if row is not None:
                rows[guard][name] = row
        if name == ties["head"] and ties["tied_by_value"]:
            continue  # the embedding, stored twice
        # rows of new tokens are at the end; only the baseline's rows can be compared
        compared = _rows_of_baseline(name, module, tensor, base)
        for label, matrix in _matrices(name, module, compared):
            if known is not None and label in known.spectral["modules"]:
                spectra[label] = known.spectral["modules"][label]
                continue
            batch = waiting.setdefault(tuple(matrix.shape), [])
            batch.append((label, module.family, matrix))
            if (len(batch) + 1) * matrix.numel() > most:
                spectra |= _measure(waiting.pop(tuple(matrix.shape)))
        if against is None or base is None or _digest(against.facts, name) == tensors[name]["digest"]:
            continue
        for pair in _pairs(name, files, compared, base):
            pairs = changed.setdefault(tuple(pair.own.shape), [])
            pairs.append(pair)
            if (len(pairs) + 1) * pair.own.numel() > most // SIDES:
                changes |= _measure_changes(changed.pop(tuple(pair.own.shape)))
    for batch in waiting.values():
        spectra |= _measure(batch)
    for pairs in changed.values():
        changes |= _measure_changes(pairs)
    return CheckpointFacts(
        {
            "measurement_contract_hash": contract_hash(invariants.CONTRACT),
            "tensors": tensors,
            "config": _config_facts(files),
            "configuration": configuration_facts(files, tokenizer),
            "modules_known_by": "table" if has_table(files.model_type) else "names",
            "tokenizer_tokens": None if tokenizer is None else len(tokenizer.vocabulary),
            "vocabulary_sha256": None if tokenizer is None else invariants.vocabulary_digest(tokenizer.vocabulary),
            "prefix_token_ids": None if tokenizer is None else list(tokenizer.prefix),
            "added_special_tokens": None if tokenizer is None else tokenizer.added_special,
            **ties,
            "storage": checkpoint.storage().document(),
            "defects": [asdict(defect) for defect in checkpoint.check()],
        },
        {"measurement_contract_hash": contract_hash(SPECTRAL_CONTRACT), "modules": dict(sorted(spectra.items()))},
        dict(sorted(changes.items())),
        {
            guard: {
                "measurement_contract_hash": contract_hash(ROW_MEASURES[guard].contract),
                "modules": dict(sorted(found.items())),
            }
            for guard, found in rows.items()
        },
    )


def _rows_of_baseline(name: str, module: Module, tensor: torch.Tensor, base: Checkpoint | None) -> torch.Tensor:
    """Return the first rows of an embedding or head, as many as the baseline's has; return other tensors whole."""
    if base is None or module.role not in ("tokens", "head") or name not in base.files.entries or tensor.ndim != 2:
        return tensor
    rows, *rest = base.files.shapes[name]
    return tensor[:rows] if list(tensor.shape[1:]) == rest else tensor


def _known(against: BaselineWeights | None, name: str, tensor: Mapping[str, Any]) -> CheckpointFacts | None:
    """Return the baseline's facts if it has the same tensor, measured in the same way, else None."""
    if against is None or against.facts.invariants["tensors"].get(name) != tensor:
        return None
    same_way = against.facts.spectral["measurement_contract_hash"] == contract_hash(SPECTRAL_CONTRACT)
    return against.facts if same_way else None


def _digest(facts: CheckpointFacts, name: str) -> str | None:
    tensor = facts.invariants["tensors"].get(name)
    return None if tensor is None else tensor["digest"]


def _read_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    entries = checkpoint.files.entries
    for name in sorted(entries, key=lambda name: (entries[name].shard, name)):
        yield name, checkpoint.read(name)


def _matrices(name: str, module: Module, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the matrices whose spectrum is measured; a stack of experts has one for each expert."""
    if module.family not in SPECTRAL_FAMILIES or not tensor.is_floating_point() or tensor.numel() == 0:
        return
    if tensor.ndim == 2:
        yield name, tensor
    elif module.experts:
        for expert, matrix in enumerate(tensor):
            yield f"{name}[{expert}]", matrix


@dataclass(frozen=True)
class _Pair:
    """One matrix of both sides, shape (out, in); ``units`` is the dimension of an FFN's hidden units, if it has any."""

    name: str
    base: torch.Tensor
    own: torch.Tensor
    units: int | None


def _pairs(name: str, files: CheckpointFiles, tensor: torch.Tensor, base: Checkpoint) -> Iterator[_Pair]:
    """Yield each matrix of a changed tensor with the baseline's, if it has one of the same shape."""
    if name not in base.files.entries or base.files.shapes[name] != tuple(tensor.shape):
        return
    module, before = files.modules[name], base.read(name)
    if not (before.is_floating_point() and tensor.is_floating_point()):
        return
    # biases are not compared, so no unit order is reported for a layer that has a bias
    alone = f"{name.removesuffix('weight')}bias" not in files.entries
    matrices = zip(_matrices(name, module, before), _matrices(name, module, tensor), strict=True)
    for (_, was), (label, now) in matrices:
        if module.transposed:
            was, now = was.mT, now.mT
        units = UNIT_DIMENSIONS.get(module.role) if module.family == "ffn" and alone else None
        yield _Pair(label, was, now, units)


def _measure_changes(pairs: list[_Pair]) -> dict[str, dict[str, Any]]:
    before, after = (_stack(side) for side in zip(*((pair.base, pair.own) for pair in pairs), strict=True))
    return {
        pair.name: {**asdict(change), "unit_order": _unit_order(pair, change)}
        for pair, change in zip(pairs, weight_changes.measure_changes(before, after), strict=True)
    }


def _unit_order(pair: _Pair, change: weight_changes.WeightChange) -> str | None:
    """Return the order of a matrix's hidden units if it changed as much as reordering would change it."""
    if pair.units is None or change.relative is None or change.relative < REORDERED_RELATIVE:
        return None
    return weight_changes.unit_order(pair.base.movedim(pair.units, 0), pair.own.movedim(pair.units, 0))


def _stack(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return matrices of one shape as one tensor on the device; matrices of mixed dtypes become float32."""
    if len({matrix.dtype for matrix in matrices}) > 1:
        matrices = [matrix.float() for matrix in matrices]
    stack = torch.stack(list(matrices)) if len(matrices) > 1 else matrices[0][None].contiguous()
    return stack.cuda() if torch.cuda.is_available() else stack


def _measure(batch: list[tuple[str, str, torch.Tensor]]) -> dict[str, dict[str, Any]]:
    stack = _stack([matrix for _, _, matrix in batch])
    return {
        name: {
            "family": family,
            "shape": list(matrix.shape),
            "sigma": spectrum.sigma,
            "residual": spectrum.residual,
            "frobenius": spectrum.frobenius,
        }
        for (name, family, matrix), spectrum in zip(batch, spectral.measure_spectra(stack), strict=True)
    }


def _config_facts(files: CheckpointFiles) -> dict[str, Any]:
    inner = files.config.get("text_config")
    config = {**inner, **files.config} if isinstance(inner, dict) else files.config
    return {fact: next((config[key] for key in keys if key in config), None) for fact, keys in CONFIG_KEYS.items()}


def _embedding_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    files = checkpoint.files
    embedding, head = _weight(files, "tokens"), _weight(files, "head")
    same = False
    if embedding is not None and head is not None and files.shapes[embedding] == files.shapes[head]:
        one, other = checkpoint.read(embedding), checkpoint.read(head)
        same = torch.equal(one, other) if one.dtype == other.dtype else torch.equal(one.float(), other.float())
    return {"embedding": embedding, "head": head, "tied_by_storage": files.tied, "tied_by_value": same}


def _weight(files: CheckpointFiles, role: Role) -> str | None:
    return next((name for name in files.with_role(role) if name.endswith(".weight")), None)
