"""Memory that is not there: refused by the kernel, or by a room that bounds what a model may take."""

import mmap
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from invarlock.errors import OutOfMemoryError
from invarlock.evaluation.memory import forward_bytes, one_out_of_memory, weight_bytes
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.scoring import score_windows

TOO_MANY_BYTES = 1 << 36
SPARE_BYTES = 1 << 28


@pytest.fixture
def bounded() -> Iterator[None]:
    """A process that gets no more than some address space beyond what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + SPARE_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.empty(TOO_MANY_BYTES, dtype=torch.uint8),
        lambda: np.empty(TOO_MANY_BYTES, dtype=np.uint8),
        lambda: mmap.mmap(-1, TOO_MANY_BYTES),
    ],
    ids=["PyTorch", "NumPy", "a file that is mapped"],
)
def test_running_out_of_memory_is_one_error_everywhere(bounded: None, take: Callable[[], object]) -> None:
    with pytest.raises(torch.OutOfMemoryError), one_out_of_memory():
        take()


def test_a_memory_limit_is_respected_by_loading_and_by_scoring(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    model = load_model(folder, Placement("cpu"))
    tokens = np.arange(7 * 16, dtype=np.int32).reshape(7, 16) % 50
    free = score_windows(model, tokens, 7)
    room = forward_bytes(model, 2, 16)

    bounded = score_windows(model, tokens, 7, room)

    assert (free.batch_size, bounded.batch_size) == (7, 1)
    assert bounded.losses == pytest.approx(free.losses, rel=1e-5)
    with pytest.raises(OutOfMemoryError, match="one window of 16 tokens does not fit"):
        score_windows(model, tokens, 7, weight_bytes(model))
    with pytest.raises(OutOfMemoryError, match="the model does not fit in the memory of cpu"):
        load_model(folder, Placement("cpu", ((0, weight_bytes(model) // 2),)))
