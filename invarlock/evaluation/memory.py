"""One error for running out of memory, whether CUDA's allocator, the CPU's, or the limit of a placement reports it.

The CPU's allocator gives out memory that is not there and leaves the rest to the kernel, which kills. A room bounds
what loading and scoring may take, by an estimate, before anything is taken.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FLOAT32_BYTES = 4
# Number of an option of glibc's mallopt, from its malloc.h.
M_ARENA_MAX = -8
# Tensors of hidden size, and of the FFN's inner size, that one block holds at once.
HIDDEN_TENSORS = 8
INNER_TENSORS = 3
# Logits, and their copy in cross entropy.
LOGITS_TENSORS = 2


@contextmanager
def one_out_of_memory() -> Iterator[None]:
    """Raise ``torch.OutOfMemoryError`` for out-of-memory errors of PyTorch's CPU allocator, Python, NumPy or the
    kernel.

    The CPU's allocator has no class of its own, and a file that cannot be mapped would look like one that is broken.
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


def use_one_arena() -> None:
    """Let all threads that start from now on allocate where this one does, if the allocator is glibc's.

    A model is loaded by threads of their own. What each of them allocated from an arena of its own is not returned to
    the kernel when the model is freed, and no other thread can use it.
    """
    mallopt = _of_the_allocator("mallopt")
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return what was freed to the kernel, if the allocator is glibc's: it keeps blocks below 32 MB."""
    trim = _of_the_allocator("malloc_trim")
    if trim is not None:
        trim(0)


def _of_the_allocator(name: str) -> Any:
    """Return a function of the C library, None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def check_room(needed_bytes: int, room_bytes: int | None) -> None:
    """Refuse what a room does not hold; None is room for anything.

    Raises:
        torch.OutOfMemoryError: as an allocator would.
    """
    if room_bytes is not None and needed_bytes > room_bytes:
        raise torch.OutOfMemoryError(f"{needed_bytes} bytes do not fit in a room of {room_bytes}")


def forward_bytes(model: Any, windows: int, seq_len: int) -> int:
    """Return an estimate of what a loaded model and a forward pass over some windows take, its logits included."""
    config = model.config.get_text_config()
    # BLT has a hidden size for each of its parts
    width = getattr(config, "hidden_size", None) or model.get_input_embeddings().weight.shape[-1]
    inner = getattr(config, "intermediate_size", None) or 4 * width
    if isinstance(inner, list | tuple):  # Gemma 3n: one for each block
        inner = max(inner)
    tokens = windows * seq_len
    activations = tokens * (HIDDEN_TENSORS * width + INNER_TENSORS * inner)
    logits = LOGITS_TENSORS * tokens * config.vocab_size
    return weight_bytes(model) + int(activations + logits) * FLOAT32_BYTES


def weight_bytes(model: Any) -> int:
    """Return the bytes of a model's parameters and buffers, those that are shared counted once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
