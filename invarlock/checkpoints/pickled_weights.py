"""Converts weights that a repository has only as pickles (``pytorch_model.bin``) to safetensors.

A pickle can run code when it is read. These pickles are read only if the user allows it, by PyTorch's restricted
unpickler (``weights_only``), which creates tensors and containers and calls nothing else. The safetensors are what is
measured. They are stored with the repository in the hub's cache, and removed with it.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invarlock.checkpoints.layout import INDEX_FILE, SINGLE_FILE, parse_index
from invarlock.checkpoints.staging import copy_and_digest, staged
from invarlock.errors import CheckpointError
from invarlock.jsonio import write_json

PICKLED_FILE = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
ADVICE = "convert it to safetensors where you trust it, and use the folder (MODEL_1=FOLDER)"
_PICKLED_STEM, _STEM = "pytorch_model", "model"
MAX_REASON_CHARACTERS = 160
# Errors for bytes that are not a pickle or a broken one; running out of memory and disk errors are different.
_BROKEN = (
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SAID = re.compile(r"WeightsUnpickler error:\s*([^.\n]+)")


def pickled_shards(index: Path) -> tuple[str, ...]:
    """Return the names of the pickles in an index, sorted.

    Raises:
        CheckpointError: when the index is malformed or names a file outside the folder.
    """
    return tuple(sorted(set(parse_index(index, ".bin").weight_map.values())))


def convert_weights(pickles: Mapping[str, Path], others: Mapping[str, Path], target: Path) -> None:
    """Make a checkpoint of safetensors, completely or not at all; equal pickles give equal bytes.

    Each shard becomes a shard of the same name with another suffix, so only one is in memory at a time. Tensors that
    share memory are written separately.

    Args:
        pickles: the weight files by name, with their index if they have one.
        others: config and tokenizer files by name, which are copied.
        target: the folder to make.

    Raises:
        CheckpointError: when a file has anything but tensors by name, or the disk fails.
    """
    with staged([target]) as folders:
        folder = folders[target]
        if PICKLED_INDEX in pickles:
            index = parse_index(pickles[PICKLED_INDEX], ".bin")
            names = {shard: _renamed(shard) for shard in index.weight_map.values()}
            if len(set(names.values())) < len(names):
                raise CheckpointError(f"{PICKLED_INDEX}: two of its shards have one name but for 'pytorch_'; {ADVICE}")
            shards: dict[str, list[str]] = {}
            for tensor, shard in index.weight_map.items():
                shards.setdefault(shard, []).append(tensor)
            for shard, tensors in sorted(shards.items()):
                _convert(pickles[shard], folder / names[shard], tensors)
            weight_map = {tensor: names[shard] for tensor, shard in index.weight_map.items()}
            write_json(folder / INDEX_FILE, {**index.document, "weight_map": weight_map})
        else:
            _convert(pickles[PICKLED_FILE], folder / SINGLE_FILE, None)
        for name, path in others.items():
            copy_and_digest(path.resolve(), folder / name)


def _renamed(shard: str) -> str:
    name = shard.removesuffix(".bin").replace(_PICKLED_STEM, _STEM, 1)
    return f"{name}.safetensors"


def _convert(source: Path, target: Path, wanted: Sequence[str] | None) -> None:
    """Write the wanted tensors of a pickle, or all of them."""
    # imported here because it takes seconds and few checkpoints are pickles
    import safetensors.torch

    found = _read(source)
    names = sorted(found if wanted is None else wanted)
    missing = [name for name in names if name not in found]
    if missing:
        raise CheckpointError(f"{source.name}: no tensor {missing[0]!r}, but the index names it; pin another revision")
    tensors = {}
    seen: set[int] = set()
    for name in names:
        tensor = found[name].contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    # the same metadata as those of transformers, which reads them
    safetensors.torch.save_file(tensors, target, metadata={"format": "pt"})
    with target.open("rb") as stream:
        os.fsync(stream.fileno())


def _read(source: Path) -> Mapping[str, Any]:
    # imported here because it takes seconds and few checkpoints are pickles
    import torch

    try:
        # files of PyTorch before 1.6 are not zip archives and cannot be memory-mapped
        found = torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except _BROKEN as error:
        # PyTorch's own message advises to trust the file, so it is cut
        said = _SAID.search(str(error))
        reason = " ".join((said[1] if said else str(error) or "it ends too early").split())[:MAX_REASON_CHARACTERS]
        raise CheckpointError(f"{source.name}: cannot be read as tensors alone ({reason}); {ADVICE}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{source.name}: holds a {type(found).__name__}, not tensors by name; {ADVICE}")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(f"{source.name}: {str(name)[:80]!r} is not a dense tensor; {ADVICE}")
    return found
