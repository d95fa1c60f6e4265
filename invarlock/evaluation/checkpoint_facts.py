"""Reading a checkpoint once, tensor by tensor, and measuring what the guards on weights need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from invarlock.checkpoints.architectures import Role
from invarlock.checkpoints.families import Module
from invarlock.checkpoints.safetensors_files import CheckpointFiles, read_checkpoint
from invarlock.guards import invariants, spectral
from invarlock.reports.derivation import contract_hash

# Matrices measured at a time: those of one shape, 256 MB of float32 at most (a single larger one is measured alone).
BATCH_ELEMENTS = 1 << 26
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
    """The raw measurements of the guards ``invariants`` and ``spectral``, as a report holds them."""

    invariants: dict[str, Any]
    spectral: dict[str, Any]


def measure_checkpoint(folder: Path, tokenizer_tokens: int | None) -> CheckpointFacts:
    """Return the facts of a checkpoint, read from its files without loading the model.

    Peak memory is one shard's largest batch of matrices of one shape.

    Args:
        folder: the checkpoint.
        tokenizer_tokens: how many tokens its tokenizer has, None when that is not known.

    Raises:
        CheckpointError: when the folder is no whole safetensors checkpoint.
    """
    files = read_checkpoint(folder)
    tensors: dict[str, dict[str, Any]] = {}
    spectra: dict[str, dict[str, Any]] = {}
    waiting: dict[tuple[int, ...], list[tuple[str, str, torch.Tensor]]] = {}
    for name, tensor in _read_tensors(files):
        module = files.modules[name]
        tensors[name] = {
            "digest": invariants.tensor_digest(tensor),
            "dtype": files.entries[name].dtype,
            "family": module.family,
            "nonfinite": invariants.count_nonfinite(tensor),
            "shape": list(tensor.shape),
        }
        for label, matrix in _matrices(name, module, tensor):
            batch = waiting.setdefault(tuple(matrix.shape), [])
            batch.append((label, module.family, matrix))
            if (len(batch) + 1) * matrix.numel() > BATCH_ELEMENTS:
                spectra |= _measure(waiting.pop(tuple(matrix.shape)))
    for batch in waiting.values():
        spectra |= _measure(batch)
    return CheckpointFacts(
        {
            "measurement_contract_hash": contract_hash(invariants.CONTRACT),
            "tensors": tensors,
            "config": _config_facts(files),
            "tokenizer_tokens": tokenizer_tokens,
            **_embedding_facts(files),
        },
        {"measurement_contract_hash": contract_hash(spectral.CONTRACT), "modules": dict(sorted(spectra.items()))},
    )


def _read_tensors(files: CheckpointFiles) -> Iterator[tuple[str, torch.Tensor]]:
    for shard in files.shards:
        with safe_open(files.folder / shard, framework="pt") as stream:
            for name in sorted(name for name, entry in files.entries.items() if entry.shard == shard):
                yield name, stream.get_tensor(name)


def _matrices(name: str, module: Module, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the matrices whose spectrum is measured; of a stack of experts each."""
    if module.family not in SPECTRAL_FAMILIES or not tensor.is_floating_point():
        return
    if tensor.ndim == 2:
        yield name, tensor
    elif module.experts:
        for expert, matrix in enumerate(tensor):
            yield f"{name}[{expert}]", matrix


def _measure(batch: list[tuple[str, str, torch.Tensor]]) -> dict[str, dict[str, Any]]:
    stack = torch.stack([matrix for _, _, matrix in batch])
    if torch.cuda.is_available():
        stack = stack.cuda()
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
    return {
        fact: next((files.config[key] for key in keys if key in files.config), None)
        for fact, keys in CONFIG_KEYS.items()
    }


def _embedding_facts(files: CheckpointFiles) -> dict[str, Any]:
    embedding, head = _weight(files, "tokens"), _weight(files, "head")
    same = False
    if embedding is not None and head is not None and files.shapes[embedding] == files.shapes[head]:
        with ExitStack() as stack:
            first, second = (
                stack.enter_context(safe_open(files.folder / files.entries[name].shard, framework="pt")).get_tensor(
                    name
                )
                for name in (embedding, head)
            )
            same = torch.equal(first, second)
    return {"embedding": embedding, "head": head, "tied_by_storage": files.tied, "tied_by_value": same}


def _weight(files: CheckpointFiles, role: Role) -> str | None:
    return next((name for name in files.with_role(role) if name.endswith(".weight")), None)
