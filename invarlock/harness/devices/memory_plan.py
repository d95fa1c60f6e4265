"""How much memory scoring a model needs, and how many devices of a pool that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from invarlock.catalog.models import Model
from invarlock.harness.devices.inventory import GB, Pool

# On a GPU, in addition to the weights: activations of a batch and logits grow with the model, CUDA's context does not.
GPU_OVERHEAD_SHARE = 0.1
GPU_OVERHEAD_BYTES = 2 * GB
# On a CPU, as benchmarks/memory.py measured it, with a margin: Python with PyTorch and a chunk of logits; then, times
# the weights as float32, the loaded model, the mapped files of subject and baseline, and matrices being measured.
CPU_PROCESS_BYTES = 800_000_000
CPU_WEIGHTS = 3
# Large embeddings of small models, and what the allocator keeps; it does not grow with larger models.
CPU_MATRICES = 2
CPU_MATRICES_BYTES = 1_500_000_000
# A forward pass: bytes a token for each unit of the square root of the parameters, which a block's width follows.
CPU_TOKEN_BYTES = 5
# Eager attention: tables of every token of a window against every other, for each head, as float32; a model of this
# many parameters has one head for each unit of their square root, and few have more heads than the largest number.
CPU_ATTENTION_TABLES = 5
ROOT_OF_PARAMETERS_A_HEAD = 900
MOST_HEADS = 64
# A forward pass where a run does not say: 16 windows of 512 tokens.
USUAL_SEQ_LEN = 512
USUAL_TOKENS = 16 * USUAL_SEQ_LEN
# Blocks are not divided, so a model that lies on several devices leaves some room on each.
SPREAD_SHARE = 0.05
FLOAT32_BYTES = 4


def needed_bytes(model: Model, kind: str, tokens: int = USUAL_TOKENS, seq_len: int = USUAL_SEQ_LEN) -> int:
    """Return the bytes that a case of a model needs: on GPUs for the model as stored, on CPUs for the whole process.

    Args:
        model: the model.
        kind: ``gpu`` or ``cpu``.
        tokens: tokens of a forward pass; used for CPUs only, since a batch that does not fit on a GPU is halved.
        seq_len: tokens of a window.
    """
    if kind == "gpu":
        planned = int(model.weight_bytes * (1 + GPU_OVERHEAD_SHARE)) + GPU_OVERHEAD_BYTES
        return max(planned, int(model.min_gpu_memory_gb * GB))
    weights = model.parameters * FLOAT32_BYTES
    matrices = min(CPU_MATRICES * weights, CPU_MATRICES_BYTES)
    activations = int(CPU_TOKEN_BYTES * tokens * math.sqrt(model.parameters))
    heads = min(MOST_HEADS, math.sqrt(model.parameters) / ROOT_OF_PARAMETERS_A_HEAD)
    attention = int(CPU_ATTENTION_TABLES * FLOAT32_BYTES * tokens * seq_len * heads)
    return CPU_PROCESS_BYTES + CPU_WEIGHTS * weights + matrices + max(activations, attention)


def devices_needed(need_bytes: int, pool: Pool) -> int | None:
    """Return the smallest number of devices of a pool with enough memory together, None if all are not enough."""
    rooms = sorted((pool.room(device) for device in pool.devices), reverse=True)
    if not pool.combinable:
        rooms = rooms[:1]
    return next((count for count in range(1, len(rooms) + 1) if fits(need_bytes, rooms[:count])), None)


def fits(need_bytes: int, rooms: list[int]) -> bool:
    """Return whether a need fits on devices with the given free bytes."""
    share = SPREAD_SHARE if len(rooms) > 1 else 0.0
    return need_bytes <= sum(rooms) * (1 - share)


def memory_problems(pool: Pool, needs: Mapping[str, int]) -> Iterator[str]:
    """Yield a problem with its remedy for each model that does not fit on the whole pool.

    Args:
        pool: the devices of a run.
        needs: the bytes that a case of each model needs, by the model's id.
    """
    for model_id, need in needs.items():
        if devices_needed(need, pool) is not None:
            continue
        rooms = [pool.room(device) for device in pool.devices]
        what = "GPUs" if pool.kind == "gpu" else "CPU slots"
        together = sum(rooms) / GB if pool.combinable else max(rooms) / GB
        yield (
            f"{model_id}: needs {need / GB:.3g} GB, and the {len(rooms)} {what} of this run have {together:.3g} GB "
            "for a model; use more or larger ones, or deselect the model with -k"
        )
