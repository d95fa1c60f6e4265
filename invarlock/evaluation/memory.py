"""Reports every way of running out of memory as one error: CUDA's allocator, the CPU's, or a placement's limit.

The CPU's allocator overcommits: it hands out more memory than there is, and the kernel then kills the process. A limit
(``room_bytes``) therefore bounds loading and scoring by an estimate, before any memory is allocated.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from invarlock.evaluation.output_heads import HEAD_LOGITS, separate_head

FLOAT32_BYTES = 4
# The numbers of mallopt's options, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Blocks of at least this many bytes are returned to the kernel when they are freed; glibc allows no larger value.
MAPPED_BYTES = 1 << 25
# Up to this many bytes of smaller freed blocks are kept for the next ones. Without them, each layer of a forward pass
# and each measurement of activations gets new memory, which the kernel must clear first.
KEPT_BYTES = 1 << 28
# Between two models, up to this many bytes of freed blocks are left for the next one. A small model leaves less, and
# the next would have to get it from the kernel again; what a large model leaves could add to the peak of the next.
LEFT_BYTES = 1 << 27
# How many tensors of the hidden size, and of the FFN's inner size, one block has in memory at once.
HIDDEN_TENSORS = 8
INNER_TENSORS = 3
# The logits, and their copy in the cross entropy.
LOGITS_TENSORS = 2


@contextmanager
def one_out_of_memory() -> Iterator[None]:
    """Raise ``torch.OutOfMemoryError`` for out-of-memory errors of PyTorch's CPU allocator, Python, NumPy or the
    kernel.

    The CPU's allocator has no error class of its own, and a file that cannot be mapped would look like a broken file.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        # "can't allocate memory" of PyTorch, "Cannot allocate memory" of the kernel
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from None


def tune_allocator() -> None:
    """Let all threads started from now on share one pool of freed memory that is kept, if the allocator is glibc's.

    Model loading starts its own threads. Memory that they allocate from separate arenas is not returned to the kernel
    when the model is freed, and other threads cannot use it.
    """
    mallopt = _of_the_allocator("mallopt")
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


class _AllocatorState(ctypes.Structure):
    """The struct ``mallinfo2`` of malloc.h, since glibc 2.33: ten sizes, of which the ninth is that of free blocks."""

    _fields_ = [("before", ctypes.c_size_t * 8), ("free", ctypes.c_size_t), ("after", ctypes.c_size_t)]


def return_freed_memory() -> None:
    """Return freed memory to the kernel, if it is more than ``LEFT_BYTES`` and the allocator is glibc's.

    The allocator itself keeps blocks below ``MAPPED_BYTES``, all that lie between blocks in use.
    """
    trim, state = _of_the_allocator("malloc_trim"), _of_the_allocator("mallinfo2")
    if trim is None:
        return
    if state is not None:
        state.restype = _AllocatorState
    if state is None or state().free > LEFT_BYTES:
        trim(0)


def _of_the_allocator(name: str) -> Any:
    """Return a function of the C library by name, or None if the library does not have it."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def check_room(needed_bytes: int, room_bytes: int | None) -> None:
    """Raise an error if the needed memory exceeds the limit; None means no limit.

    Raises:
        torch.OutOfMemoryError: as an allocator would.
    """
    if room_bytes is not None and needed_bytes > room_bytes:
        raise torch.OutOfMemoryError(f"{needed_bytes} bytes do not fit in a room of {room_bytes}")


def forward_bytes(model: Any, windows: int, seq_len: int) -> int:
    """Return an estimate of the memory of a loaded model and a forward pass over some windows, with its logits."""
    config = model.config.get_text_config()
    # BLT has a separate hidden size for each of its parts
    width = getattr(config, "hidden_size", None) or model.get_input_embeddings().weight.shape[-1]
    inner = getattr(config, "intermediate_size", None) or 4 * width
    if isinstance(inner, list | tuple):  # Gemma 3n has one size per block
        inner = max(inner)
    tokens = windows * seq_len
    activations = tokens * (HIDDEN_TENSORS * width + INNER_TENSORS * inner)
    at_once = tokens * config.vocab_size
    if separate_head(model) is not None:
        at_once = min(at_once, HEAD_LOGITS)
    logits = LOGITS_TENSORS * at_once
    return weight_bytes(model) + int(activations + logits) * FLOAT32_BYTES


def weight_bytes(model: Any) -> int:
    """Return the bytes of a model's parameters and buffers; shared ones count once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
