"""The final windows: scored, and their activations measured, in the same forward passes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from invarlock.evaluation import scoring
from invarlock.evaluation.activations import measure_activations
from invarlock.evaluation.final_windows import FinalWindows, measure_final
from invarlock.evaluation.memory import forward_bytes
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.scoring import score_blocks
from invarlock.evaluation.windows import Windows
from invarlock.stages import StageEvent, listening

TinyModels = Callable[..., Path]
LENGTH, SHORTER = 24, 12
BATCH = 16


def drawn(*slices: tuple[int, int]) -> Windows:
    """Return random windows of some slices, given the number and the length of each; one slice has no name."""
    blocks: list[Any] = []
    for seed, (count, length) in enumerate(slices):
        block = np.random.default_rng(seed).integers(3, 64, (count, length)).astype(np.int32)
        if blocks and blocks[-1].shape[1] == length:
            blocks[-1] = np.concatenate([blocks[-1], block])
        else:
            blocks.append(block)
    names = [f"s{index}" for index, (count, _) in enumerate(slices) for _ in range(count)]
    total = sum(count for count, _ in slices)
    return Windows(tuple(map(str, range(total))), tuple(blocks), tuple(names) if len(slices) > 1 else ())


class Seen:
    """An observer that counts the windows and positions it sees."""

    def __init__(self, windows: Windows) -> None:
        self.times = [[0] * positions for positions in windows.positions]

    def observe(
        self, windows: tuple[int, int], positions: tuple[int, int], scores: Any, following: torch.Tensor
    ) -> None:
        assert following.shape == (windows[1] - windows[0], positions[1] - positions[0])
        for window in range(*windows):
            for position in range(*positions):
                self.times[window][position] += 1


@contextmanager
def counted_windows(model: PreTrainedModel) -> Iterator[list[int]]:
    """Collect the number of windows of each forward pass."""
    sizes: list[int] = []

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        sizes.append(len(named["input_ids"]))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


def measured(model: PreTrainedModel, windows: Windows, *, probe: bool, room: int | None = None) -> FinalWindows:
    """Return what final windows give, after a check that each position was seen."""
    seen = Seen(windows)
    found = measure_final(model, windows, BATCH, room, seen, probe=probe)
    assert all(min(times) == 1 for times in seen.times)
    assert len(found.scores.losses) == len(windows.ids)
    return found


@pytest.mark.parametrize("batch_size", [2, BATCH])
def test_the_final_windows_are_counted_as_one_part(batch_size: int, tiny_model: TinyModels) -> None:
    model, windows = load_model(tiny_model("llama"), Placement("cpu")), drawn((20, LENGTH), (12, SHORTER))
    events: list[StageEvent] = []

    with listening(events.append):
        measure_final(model, windows, batch_size, None, Seen(windows), probe=False)

    done = [int(str(event).removeprefix("final windows ").removesuffix("/32")) for event in events]
    assert (done, done[0], done[-1]) == (sorted(done), 0, 32)


@pytest.mark.parametrize("architecture", ["llama", "mixtral", "gpt2"])
@pytest.mark.parametrize("slices", [[(6, LENGTH)], [(21, LENGTH)], [(70, LENGTH)], [(10, LENGTH), (9, LENGTH)]])
def test_activations_are_those_of_passes_of_their_own(
    architecture: str, slices: list[tuple[int, int]], tiny_model: TinyModels
) -> None:
    model, windows = load_model(tiny_model(architecture), Placement("cpu")), drawn(*slices)

    found = measured(model, windows, probe=True)

    own = windows.first_slice
    assert found.activations == measure_activations(model, own[:8])
    assert found.probe == measure_activations(model, own[:64])
    assert found.scores.losses == pytest.approx(score_blocks(model, windows.blocks, BATCH).losses, rel=1e-5)
    assert found.seconds > 0


def test_no_window_passes_through_the_model_twice(tiny_model: TinyModels) -> None:
    model, windows = load_model(tiny_model("llama"), Placement("cpu")), drawn((70, LENGTH), (5, SHORTER))

    with counted_windows(model) as sizes:
        measured(model, windows, probe=True)

    assert sizes == [*[8] * 8, 6, 5]


@pytest.mark.parametrize("slices", [[(21, LENGTH)], [(70, LENGTH)], [(30, LENGTH), (9, LENGTH), (5, SHORTER)]])
def test_losses_do_not_depend_on_whether_the_probe_is_measured(
    slices: list[tuple[int, int]], tiny_model: TinyModels
) -> None:
    model, windows = load_model(tiny_model("llama"), Placement("cpu")), drawn(*slices)

    with counted_windows(model) as with_probe:
        probed = measured(model, windows, probe=True)
    with counted_windows(model) as without:
        plain = measured(model, windows, probe=False)

    assert with_probe == without
    assert plain.scores == probed.scores
    assert plain.activations == probed.activations
    assert plain.probe is None


def test_logits_that_do_not_fit_into_a_pass_of_a_chunk_leave_activations_a_pass_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tiny_model: TinyModels
) -> None:
    # a model with a soft cap cannot be run without its head
    model, windows = load_model(tiny_model("gemma2"), Placement("cpu")), drawn((21, LENGTH))
    together = measured(model, windows, probe=True)
    monkeypatch.setattr(scoring, "CPU_PASS_LOGITS", 5 * LENGTH * model.config.vocab_size)

    with counted_windows(model) as sizes:
        apart = measured(model, windows, probe=True)

    assert sizes == [5, 5, 5, 5, 1, 8, 8, 8, 5]
    assert (apart.activations, apart.probe) == (together.activations, together.probe)
    assert apart.scores.losses == pytest.approx(together.scores.losses, rel=1e-5)


def test_a_chunk_that_does_not_fit_in_memory_is_halved(tiny_model: TinyModels) -> None:
    model, windows = load_model(tiny_model("llama"), Placement("cpu")), drawn((21, LENGTH))
    room = forward_bytes(model, 5, LENGTH)

    with counted_windows(model) as sizes:
        found = measured(model, windows, probe=True, room=room)

    assert max(sizes) == 4
    assert found.activations == measure_activations(model, windows.first_slice[:8], room)
    assert found.scores.losses == pytest.approx(score_blocks(model, windows.blocks, BATCH).losses, rel=1e-5)
