"""Memory that is not there: refused by the kernel, or by a room that bounds what a model may take."""

import mmap
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from processes import python, succeed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from invarlock.errors import OutOfMemoryError
from invarlock.evaluation.memory import forward_bytes, one_out_of_memory, weight_bytes
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.output_heads import HEAD_LOGITS
from invarlock.evaluation.scoring import score_windows
from invarlock.measuring.invariants import count_nonfinite
from invarlock.measuring.spectral import measure_spectra
from invarlock.measuring.weight_changes import measure_changes

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


def test_logits_count_only_where_they_all_exist_at_once(tiny_model: Callable[..., Path]) -> None:
    apart, whole = (load_model(tiny_model(name), Placement("cpu")) for name in ("llama", "gemma2"))

    def logits(model: Any, windows: int) -> int:
        text, small = model.config.get_text_config(), forward_bytes(model, windows, 128)
        text.vocab_size += 1_000_000
        try:
            return forward_bytes(model, windows, 128) - small
        finally:
            text.vocab_size -= 1_000_000

    # float32, and as much again for the cross entropy
    assert logits(whole, 16) == 16 * 128 * 1_000_000 * 4 * 2
    assert logits(apart, 16) < 2 * HEAD_LOGITS * 4


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


FREED = """
import sys
from pathlib import Path
from invarlock.evaluation.memory import return_freed_memory
from invarlock.evaluation.models import Placement, load_model

def memory(field):
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) // 1024

def anonymous():
    return memory("RssAnon")

load_model(Path(sys.argv[1]), Placement("cpu"))
return_freed_memory()
before = anonymous()
model = load_model(Path(sys.argv[2]), Placement("cpu"))
loaded = anonymous()
mapped = memory("VmHWM") - memory("VmRSS")
del model
return_freed_memory()
print(loaded - before, anonymous() - before, mapped)
"""


@pytest.mark.slow
def test_a_model_is_loaded_without_its_whole_file_in_memory_and_its_memory_is_returned(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    config = transformers.LlamaConfig(
        vocab_size=20_000, hidden_size=576, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=9
    )
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path)

    done = succeed(python("-c", FREED, str(tiny_model("llama")), str(tmp_path)))

    loaded, left, mapped = (int(size) for size in done.stdout.split())
    assert loaded > 250
    assert left < 20
    # 64 of the 140 MB of its file, and what the library reads ahead
    assert mapped < 100


AGAIN = """
import resource, sys
from pathlib import Path
import torch
from invarlock.evaluation.memory import return_freed_memory
from invarlock.evaluation.models import Placement, load_model

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

model = load_model(Path(sys.argv[1]), Placement("cpu"))
for round in range(11):
    if round == 1:
        before = pages()
    blocks = [torch.ones(2_000_000) for _ in range(4)]
    del blocks
    return_freed_memory()
print(pages() - before)
"""


@pytest.mark.slow
def test_memory_that_is_freed_is_used_again_and_not_asked_of_the_kernel(tiny_model: Callable[..., Path]) -> None:
    done = succeed(python("-c", AGAIN, str(tiny_model("llama"))))

    # 4 blocks of 8 MB have 8,000 pages, and are too few to be returned before the next model
    assert int(done.stdout) < 8_000


class NewTensors(TorchDispatchMode):
    """Notes the bytes of every tensor that is made, views aside, while the context lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {
            one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)
        }
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in given:
                self.bytes.append(one.untyped_storage().nbytes())
        return made


def test_a_large_matrix_is_copied_as_float32_once_and_otherwise_worked_on_in_parts() -> None:
    before, after = torch.ones(1, 4096, 1024, dtype=torch.bfloat16), torch.ones(1, 4096, 1024, dtype=torch.bfloat16)
    after[0, 5] = 2
    as_float32 = 2 * before.nbytes

    def large(work: Callable[[], object]) -> list[int]:
        with NewTensors() as made:
            work()
        return [size for size in made.bytes if size > as_float32 // 4]

    assert large(lambda: count_nonfinite(before)) == []
    assert large(lambda: measure_spectra(before)) == [as_float32]
    # the difference, and its copy that is scaled
    assert large(lambda: measure_changes(before, after)) == [as_float32, as_float32]
