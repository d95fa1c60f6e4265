"""Makes one or several checkpoints from a checkpoint in one pass, without a whole model in memory.

Example::

    halve = Rewrite({"lm_head.weight": Replacement("lm_head.weight", lambda weight: weight / 2)})
    rewrite_checkpoint(read_checkpoint(baseline), {subject: halve})

Each tensor of the source is read once (through a memory map of one shard at a time), checked to be finite, and written
to the shards of the targets that use it. Peak memory is one shard, whose pages the system may drop, plus one tensor and
the memory of its replacement. All sizes are known in advance, so a shard's header is written first and each tensor then
goes to its place. Shards and files that a target does not change are hard links. A shard in which only values change
keeps its header; if the file system can share blocks (Btrfs, XFS), only the changed tensors are written.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from invarlock.checkpoints.layout import CONFIG_FILE, CONFIG_FILES, INDEX_FILE, code_files, tokenizer_files
from invarlock.checkpoints.safetensors_files import ITEM_BYTES, LENGTH_BYTES, CheckpointFiles, TensorEntry
from invarlock.checkpoints.staging import clone_into, link_or_copy, staged
from invarlock.errors import CheckpointError, EditError
from invarlock.jsonio import write_bytes, write_json

# The format pads the header so that the data starts at a multiple of this.
HEADER_ALIGNMENT_BYTES = 8


Make = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Replacement:
    """A tensor of the target: the result of ``make`` for the source's tensor ``source``.

    ``make`` is called once and must not write to its argument. Its result has ``shape`` and ``dtype`` (None: as in the
    source).
    """

    source: str
    make: Make
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Rewrite:
    """The changes of a target: replaced or added tensors, dropped tensors, and fields of the config."""

    tensors: Mapping[str, Replacement] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, unchanged: Collection[str] = ()) -> frozenset[str]:
        """Return the changed tensors, except the given ones; a tensor that is replaced by its parts counts once."""
        made = {
            replacement.source if replacement.source in self.drop else name
            for name, replacement in self.tensors.items()
            if name not in unchanged
        }
        return self.drop | made


@dataclass
class _Target:
    """A target being written: the seconds spent on it alone, and the error that stopped it."""

    folder: Path
    rewrite: Rewrite
    seconds: float = 0.0
    error: EditError | None = None


@dataclass(frozen=True)
class _Shard:
    """A shard being written: the offset of each tensor in the file, and the outputs of each tensor of the source."""

    target: _Target
    stream: BinaryIO
    places: Mapping[str, tuple[int, TensorEntry]]
    outputs: Mapping[str, Sequence[tuple[str, Make]]]


def rewrite_checkpoint(source: CheckpointFiles, targets: Mapping[Path, Rewrite]) -> dict[Path, float]:
    """Make every target from the source in one pass; all of them appear, or none.

    Returns the seconds spent on each target alone, without the time to read the source.

    Raises:
        CheckpointError: when a target exists, refers to a tensor that the source does not have, or a tensor of the
            source is not finite.
        EditError: when a replacement raises it.
    """
    with staged(list(targets)) as folders:
        writing = _write_targets(source, targets, folders)
        for target in writing:
            if target.error is not None:
                raise target.error
    return {path: target.seconds for path, target in zip(targets, writing, strict=True)}


def rewrite_each(source: CheckpointFiles, targets: Mapping[Path, Rewrite]) -> dict[Path, float | EditError]:
    """Make the targets from the source in one pass; a target whose replacement raises ``EditError`` is left out.

    Returns for each target its seconds, as ``rewrite_checkpoint`` does, or its error. After any other error no target
    is left.

    Raises:
        CheckpointError: as ``rewrite_checkpoint``.
    """
    outcomes: dict[Path, float | EditError] = {}
    with staged(list(targets)) as folders:
        for path, target in zip(targets, _write_targets(source, targets, folders), strict=True):
            outcomes[path] = target.seconds if target.error is None else target.error
            if target.error is not None:
                del folders[path]
    return outcomes


def _write_targets(
    source: CheckpointFiles, targets: Mapping[Path, Rewrite], folders: Mapping[Path, Path]
) -> list[_Target]:
    for rewrite in targets.values():
        _check_names(source, rewrite)
    writing = [_Target(folders[path], rewrite) for path, rewrite in targets.items()]
    for shard in source.shards:
        _rewrite_shard(source, shard, [target for target in writing if target.error is None])
    for target in writing:
        if target.error is None:
            _write_documents(source, target.folder, target.rewrite)
    return writing


def count_nonfinite(tensor: torch.Tensor) -> int:
    """Return how many elements are NaN or infinite; integers have none."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return 0
    if tensor.element_size() == 1:
        tensor = tensor.float()
    # One pass without temporaries: both ends are finite exactly when all elements are, and NaN is passed on.
    low, high = tensor.aminmax()
    if math.isfinite(low.item()) and math.isfinite(high.item()):
        return 0
    return int(tensor.numel() - int(tensor.isfinite().sum()))


def _check_names(source: CheckpointFiles, rewrite: Rewrite) -> None:
    wanted = {replacement.source for replacement in rewrite.tensors.values()} | rewrite.drop
    unknown = sorted(wanted - source.entries.keys())
    if unknown:
        raise CheckpointError(f"{source.folder}: no tensor {unknown[0]!r}; name one that the checkpoint has")


def _target_entries(source: CheckpointFiles, rewrite: Rewrite) -> dict[str, TensorEntry]:
    """Return the tensors of a target; each is in the shard of the tensor from which it is made."""
    entries = {name: entry for name, entry in source.entries.items() if name not in rewrite.drop}
    for name, replacement in rewrite.tensors.items():
        origin = source.entries[replacement.source]
        shape = origin.shape if replacement.shape is None else replacement.shape
        dtype = replacement.dtype or origin.dtype
        size_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = replace(origin, name=name, dtype=dtype, shape=shape, size_bytes=size_bytes)
    return entries


def _rewrite_shard(source: CheckpointFiles, shard: str, targets: Sequence[_Target]) -> None:
    if not targets:
        return
    with ExitStack() as stack:
        writing: list[_Shard] = []
        for target in targets:
            rewrite, path = target.rewrite, target.folder / shard
            before = [entry for entry in source.entries.values() if entry.shard == shard]
            after = [entry for entry in _target_entries(source, rewrite).values() if entry.shard == shard]
            if after == before and not any(entry.name in rewrite.tensors for entry in after):
                link_or_copy(source.folder / shard, path)
            elif after:
                stream = stack.enter_context(path.open("xb"))
                start = _kept_header_bytes(source.folder / shard, after) if after == before else None
                if start is None:
                    places, written = _write_header(stream, after, source.metadata[shard]), after
                else:
                    places = _places(after, start)
                    cloned = clone_into(source.folder / shard, stream)
                    written = [entry for entry in after if entry.name in rewrite.tensors] if cloned else after
                    if not cloned:
                        _copy_header(source.folder / shard, start, stream)
                writing.append(_Shard(target, stream, places, _outputs(written, rewrite)))
        _stream_tensors(source, shard, writing)
        for made in writing:
            if made.target.error is None:
                with _timed(made.target):
                    made.stream.flush()
                    os.fsync(made.stream.fileno())


@contextmanager
def _timed(target: _Target) -> Iterator[None]:
    started = time.perf_counter()
    yield
    target.seconds += time.perf_counter() - started


def _outputs(entries: Sequence[TensorEntry], rewrite: Rewrite) -> dict[str, list[tuple[str, Make]]]:
    outputs: dict[str, list[tuple[str, Make]]] = defaultdict(list)
    for entry in entries:
        replacement = rewrite.tensors.get(entry.name, Replacement(entry.name, _as_it_is))
        outputs[replacement.source].append((entry.name, replacement.make))
    return outputs


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _kept_header_bytes(path: Path, entries: Sequence[TensorEntry]) -> int | None:
    """Return where the data of a shard begins; None if the file has more than the entries, such as old buffers."""
    with path.open("rb") as stream:
        start = LENGTH_BYTES + int.from_bytes(stream.read(LENGTH_BYTES), "little")
    return start if start + sum(entry.size_bytes for entry in entries) == path.stat().st_size else None


def _places(entries: Sequence[TensorEntry], start: int) -> dict[str, tuple[int, TensorEntry]]:
    """Return the offset in the file of each tensor, for tensors in the order of their data."""
    places = {}
    for entry in entries:
        places[entry.name] = (start, entry)
        start += entry.size_bytes
    return places


def _copy_header(path: Path, size_bytes: int, stream: BinaryIO) -> None:
    with path.open("rb") as source:
        stream.write(source.read(size_bytes))


def _write_header(
    stream: BinaryIO, entries: list[TensorEntry], metadata: Mapping[str, str]
) -> dict[str, tuple[int, TensorEntry]]:
    """Write a safetensors header; return the offset in the file of each tensor."""
    # Wide types first, as the format's own writer does it, keeps every tensor aligned.
    ordered = sorted(entries, key=lambda entry: -ITEM_BYTES[entry.dtype])
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for entry in ordered:
        end = offset + entry.size_bytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT_BYTES)
    stream.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
    start = LENGTH_BYTES + len(text)
    return {entry.name: (start + header[entry.name]["data_offsets"][0], entry) for entry in ordered}


def _stream_tensors(source: CheckpointFiles, shard: str, writing: list[_Shard]) -> None:
    with safe_open(source.folder / shard, framework="pt") as tensors:
        for name in [entry.name for entry in source.entries.values() if entry.shard == shard]:
            tensor = tensors.get_tensor(name)
            count = count_nonfinite(tensor)
            if count:
                raise CheckpointError(
                    f"{source.folder / shard}: {count} of {tensor.numel()} elements of tensor {name!r} are not finite; "
                    "edits and faults start from a finite baseline, fetch the model again"
                )
            for made in writing:
                _write_outputs(made, name, tensor)
            if writing and all(made.target.error is not None for made in writing):
                return


def _write_outputs(shard: _Shard, name: str, tensor: torch.Tensor) -> None:
    """Write the outputs of a source's tensor, and release each: only one edited copy is in memory at a time."""
    if shard.target.error is not None:
        return
    with _timed(shard.target):
        for made, make in shard.outputs.get(name, ()):
            try:
                replacement = make(tensor)
            except EditError as error:
                shard.target.error = error
                return
            _write_tensor(shard, made, replacement)


def _write_tensor(shard: _Shard, name: str, tensor: torch.Tensor) -> None:
    offset, entry = shard.places[name]
    if tuple(tensor.shape) != entry.shape or tensor.numel() * tensor.element_size() != entry.size_bytes:
        raise ValueError(f"{name}: made {tensor.dtype} {tuple(tensor.shape)}, declared {entry.dtype} {entry.shape}")
    shard.stream.seek(offset)
    shard.stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _write_documents(source: CheckpointFiles, folder: Path, rewrite: Rewrite) -> None:
    others = [name for name in CONFIG_FILES if (source.folder / name).is_file()]
    others += [*tokenizer_files(source.folder), *code_files(source.folder)]
    for name in others:
        if name != CONFIG_FILE or not rewrite.config:
            link_or_copy(source.folder / name, folder / name)
    if rewrite.config:
        # configs of some models have infinite numbers, which json writes as transformers reads them
        text = json.dumps({**source.config, **rewrite.config}, indent=2, sort_keys=True)
        write_bytes(folder / CONFIG_FILE, f"{text}\n".encode())
    if source.index is None:
        return
    entries = _target_entries(source, rewrite)
    if entries == source.entries:
        link_or_copy(source.folder / INDEX_FILE, folder / INDEX_FILE)
        return
    metadata = {**(source.index.document.get("metadata") or {})}
    metadata["total_size"] = sum(entry.size_bytes for entry in entries.values())
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(entry.elements for entry in entries.values())
    weight_map = {name: entry.shard for name, entry in entries.items()}
    write_json(folder / INDEX_FILE, {**source.index.document, "metadata": metadata, "weight_map": weight_map})
