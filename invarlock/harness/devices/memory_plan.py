"""The memory needed to score a model, and the number of devices of a pool that provide it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from invarlock.catalog.estimates import process_bytes
from invarlock.catalog.models import Model
from invarlock.harness.devices.inventory import GB, Pool

# Memory needed on a GPU in addition to the weights: activations of a batch and logits grow with the model, CUDA's
# context does not.
GPU_OVERHEAD_SHARE = 0.1
GPU_OVERHEAD_BYTES = 2 * GB
# The default size of a forward pass: 16 windows of 512 tokens.
USUAL_SEQ_LEN = 512
USUAL_TOKENS = 16 * USUAL_SEQ_LEN
# Blocks of a model are not divided, so a model spread over several devices leaves some memory unused on each.
SPREAD_SHARE = 0.05


def needed_bytes(model: Model, kind: str, tokens: int = USUAL_TOKENS, seq_len: int = USUAL_SEQ_LEN) -> int:
    """Return the bytes that a case of a model needs: on GPUs for the model as stored, on CPUs for the whole process.

    Args:
        model: the model.
        kind: ``gpu`` or ``cpu``.
        tokens: the tokens in a forward pass; used only for CPUs, since a batch that does not fit on a GPU is halved.
        seq_len: the tokens in a window.
    """
    if kind == "gpu":
        planned = int(model.weight_bytes * (1 + GPU_OVERHEAD_SHARE)) + GPU_OVERHEAD_BYTES
        return max(planned, int(model.min_gpu_memory_gb * GB))
    return process_bytes(model.parameters, tokens, seq_len)


def devices_needed(need_bytes: int, pool: Pool) -> int | None:
    """Return the smallest number of devices with enough memory in total, or None if even all are not enough."""
    rooms = sorted((pool.room(device) for device in pool.devices), reverse=True)
    if not pool.combinable:
        rooms = rooms[:1]
    return next((count for count in range(1, len(rooms) + 1) if fits(need_bytes, rooms[:count])), None)


def fits(need_bytes: int, rooms: list[int]) -> bool:
    """Return whether this many bytes fit on devices with the given free bytes."""
    share = SPREAD_SHARE if len(rooms) > 1 else 0.0
    return need_bytes <= sum(rooms) * (1 - share)


def memory_problems(pool: Pool, needs: Mapping[str, int]) -> Iterator[str]:
    """Yield a problem with its remedy for each model that does not fit on the whole pool.

    Args:
        pool: the devices of the run.
        needs: the bytes that one case of each model needs, by model id.
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
