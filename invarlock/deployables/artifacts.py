"""Making deployable subjects, and measuring whether they can be served.

Example::

    artifact = make_artifact(snapshot, Path("subject"), parse_deployable_spec("torchao_int8:8:128:all"), placement)
    documents = examine_artifact(snapshot, Path("subject"), spec, placement, draw)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from invarlock.catalog.deployables import BACKENDS as FACTS
from invarlock.catalog.deployables import DeployableSpec
from invarlock.checkpoints.families import tensors_in_scope
from invarlock.checkpoints.layout import tokenizer_files
from invarlock.checkpoints.safetensors_files import CheckpointFiles, read_checkpoint
from invarlock.checkpoints.staging import link_or_copy, staged
from invarlock.deployables.backends import BACKENDS, Backend
from invarlock.errors import EditError
from invarlock.evaluation.models import Placement, load_stored_model
from invarlock.evaluation.windows import Draw
from invarlock.reports.deployables import INFERENCE, INVENTORY, LOAD, MEMORY, inventory_totals, memory_ratios

PROMPT_TOKENS = 16
NEW_TOKENS = 16
GENERATION_SEED = 0
LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class Artifact:
    """The result of packing: packed matrices and their elements, and all elements of the baseline."""

    matrices: int
    parameters: int
    total_parameters: int
    storage_format: str


def make_artifact(snapshot: Path, target: Path, spec: DeployableSpec, placement: Placement) -> Artifact:
    """Pack a checkpoint with a backend and save it atomically as it would be served.

    Raises:
        EditError: when the backend packs nothing of the scope.
        CheckpointError: when the checkpoint cannot be written.
        EvaluationError: when the model cannot be loaded.
    """
    backend, files = BACKENDS[spec.backend], read_checkpoint(snapshot)
    wanted = _in_scope(files, spec)
    leave = [name.removesuffix(".weight") for name in files.entries if name.endswith(".weight") and name not in wanted]
    model = load_stored_model(snapshot, placement, quantization_config=backend.config(spec, leave))
    with staged([target]) as folders:
        model.save_pretrained(folders[target])
        for name in tokenizer_files(snapshot):
            if not (folders[target] / name).exists():
                link_or_copy(snapshot / name, folders[target] / name)
        packed = _packed(backend, files, read_checkpoint(folders[target]))
        if not packed:
            raise EditError(
                f"{spec}: the backend packed nothing of {snapshot.name}; its linear layers are not supported"
            )
    return Artifact(
        len(packed),
        sum(files.entries[name].elements for name in packed),
        files.total_parameters,
        backend.storage_format,
    )


def examine_artifact(
    snapshot: Path, subject: Path, spec: DeployableSpec, placement: Placement, draw: Draw
) -> dict[str, dict[str, Any]]:
    """Return the measurements of a packed checkpoint by document, without the fields that bind them to a report.

    Raises:
        EvaluationError: when it cannot be loaded.
    """
    backend, files, packed_files = BACKENDS[spec.backend], read_checkpoint(snapshot), read_checkpoint(subject)
    packed = _packed(backend, files, packed_files)
    dense = load_stored_model(snapshot, placement)
    baseline = {"weight_files_bytes": _weight_files_bytes(files), "loaded_bytes": loaded_bytes(dense)}
    del dense
    started = time.perf_counter()
    model = load_stored_model(subject, placement)
    seconds = time.perf_counter() - started
    own = {"weight_files_bytes": _weight_files_bytes(packed_files), "loaded_bytes": loaded_bytes(model)}
    matrices = [
        {
            "name": name,
            "shape": list(files.entries[name].shape),
            "stored_as": {part: packed_files.entries[stored].dtype for part, stored in sorted(parts.items())},
            "packed_bytes": sum(packed_files.entries[stored].size_bytes for stored in parts.values()),
            "dense_bytes": files.entries[name].size_bytes,
        }
        for name, parts in sorted(packed.items())
    ]
    libraries = (*LIBRARIES, *FACTS[spec.backend].packages)
    return {
        INVENTORY: {
            "backend": spec.backend,
            "spec": str(spec),
            "storage_format": backend.storage_format,
            "versions": {name: metadata.version(name) for name in libraries},
            "matrices": matrices,
            "not_packed": sorted(_in_scope(files, spec) - packed.keys()),
            "totals": inventory_totals(matrices),
        },
        MEMORY: {"baseline": baseline, "subject": own, "ratio": memory_ratios(baseline, own)},
        LOAD: {
            "model_class": type(model).__name__,
            "device": placement.device,
            "dtype": str(model.dtype).removeprefix("torch."),
            "packed_modules": sum(_is_packed(parameter) for parameter in model.parameters()),
            "seconds": round(seconds, 6),
        },
        INFERENCE: _generate(model, draw),
    }


def loaded_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of a model's parameters and buffers in memory, counting shared ones once.

    A packed parameter is a tensor composed of tensors, or a tensor with separate scales.
    """
    seen: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for part in _parts(tensor):
            seen[part.data_ptr()] = part.numel() * part.element_size()
    return sum(seen.values())


def _parts(tensor: Any) -> list[torch.Tensor]:
    if hasattr(tensor, "__tensor_flatten__"):
        return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    scales = [scale for name in ("CB", "SCB") if isinstance(scale := getattr(tensor, name, None), torch.Tensor)]
    return [tensor, *scales]


def _is_packed(parameter: Any) -> bool:
    return hasattr(parameter, "__tensor_flatten__") or parameter.dtype == torch.int8


@torch.inference_mode()
def _generate(model: Any, draw: Draw) -> dict[str, Any]:
    """Generate twice from the same seed, and check every logit."""
    prompt = torch.from_numpy(draw.final.tokens[:1, :PROMPT_TOKENS]).long().to(model.device)
    started = time.perf_counter()
    first, second = _sample(model, prompt), _sample(model, prompt)
    logits = torch.stack(first.logits).float()
    return {
        "seed": GENERATION_SEED,
        "prompt": {"window_id": draw.final.ids[0], "tokens": int(prompt.shape[1])},
        "new_tokens": NEW_TOKENS,
        "token_ids": first.sequences[0, prompt.shape[1] :].tolist(),
        "repeated": bool(torch.equal(first.sequences, second.sequences)),
        "nonfinite_logits": int(logits.numel() - int(logits.isfinite().sum())),
        "largest_logit": _finite(float(logits.max())),
        "smallest_logit": _finite(float(logits.min())),
        "seconds": round(time.perf_counter() - started, 6),
    }


def _sample(model: Any, prompt: torch.Tensor) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(GENERATION_SEED)
        return model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _in_scope(files: CheckpointFiles, spec: DeployableSpec) -> set[str]:
    return set(tensors_in_scope(files.model_type, files.shapes, spec.scope, where=files.folder.name))


def _packed(backend: Backend, files: CheckpointFiles, packed: CheckpointFiles) -> dict[str, Mapping[str, str]]:
    """Return, for each matrix of the baseline by name, the tensors in which a packed checkpoint stores it."""
    found: dict[str, Mapping[str, str]] = {}
    for name in files.entries:
        parts = backend.stored_as(name) if name.endswith(".weight") else {}
        if parts and all(stored in packed.entries for stored in parts.values()):
            found[name] = parts
    return found


def _weight_files_bytes(files: CheckpointFiles) -> int:
    return sum((files.folder / shard).stat().st_size for shard in files.shards)
