"""How much memory a model needs to be scored, and on how many devices of a pool that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from invarlock.catalog.models import Model
from invarlock.harness.inventory import GB, Pool

# Beside the weights: activations of a batch and a chunk of logits grow with the model, CUDA's own context does not.
OVERHEAD_SHARE = 0.1
OVERHEAD_BYTES = {"gpu": 2 * GB, "cpu": GB // 50}
# Blocks are not divided, so a model that lies on several devices leaves some room on each.
SPREAD_SHARE = 0.05
FLOAT32_BYTES = 4


def needed_bytes(model: Model, kind: str) -> int:
    """Return the memory for a model's weights and for scoring with it: as stored on GPUs, float32 on CPUs."""
    weights = model.weight_bytes if kind == "gpu" else model.parameters * FLOAT32_BYTES
    planned = int(weights * (1 + OVERHEAD_SHARE)) + OVERHEAD_BYTES[kind]
    return max(planned, int(model.min_gpu_memory_gb * GB)) if kind == "gpu" else planned


def devices_needed(need_bytes: int, pool: Pool) -> int | None:
    """Return the fewest devices of a pool whose room together holds a need, None when all do not."""
    rooms = sorted((pool.room(device) for device in pool.devices), reverse=True)
    if not pool.combinable:
        rooms = rooms[:1]
    return next((count for count in range(1, len(rooms) + 1) if fits(need_bytes, rooms[:count])), None)


def fits(need_bytes: int, rooms: list[int]) -> bool:
    """Tell whether devices with some rooms hold a need together."""
    share = SPREAD_SHARE if len(rooms) > 1 else 0.0
    return need_bytes <= sum(rooms) * (1 - share)


def memory_problems(pool: Pool, models: Sequence[Model]) -> Iterator[str]:
    """Yield each of some models that no lease on the pool can ever hold, and what to do about it."""
    for model in {model.id: model for model in models}.values():
        need = needed_bytes(model, pool.kind)
        if devices_needed(need, pool) is not None:
            continue
        rooms = [pool.room(device) for device in pool.devices]
        what = "GPUs" if pool.kind == "gpu" else "CPU slots"
        together = sum(rooms) / GB if pool.combinable else max(rooms) / GB
        yield (
            f"{model.id}: needs {need / GB:.3g} GB, and the {len(rooms)} {what} of this run have {together:.3g} GB "
            "for a model; use more or larger ones, or leave the model out with -k"
        )
