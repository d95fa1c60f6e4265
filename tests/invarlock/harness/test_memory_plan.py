"""The memory planned for a model covers the measured peak of a case, and is not much larger."""

import re
from pathlib import Path
from typing import Any

import pytest

from invarlock.catalog.models import Model, read_models
from invarlock.harness.devices.inventory import GB, Device, Pool
from invarlock.harness.devices.memory_plan import devices_needed, fits, memory_problems, needed_bytes

ROOT = Path(__file__).parents[3]
# Parameters, tokens per window, and peak in MB, as measured by benchmarks/memory.py and listed in docs/performance.md.
MEASURED = (
    (10_946_816, 128, 704),
    (10_946_816, 512, 737),
    (54_667_776, 128, 860),
    (134_515_008, 128, 1273),
)


@pytest.mark.parametrize(("parameters", "seq_len", "peak_mb"), MEASURED)
def test_measured_peaks_fit_into_what_is_planned(parameters: int, seq_len: int, peak_mb: int) -> None:
    model = Model("a/model", "llama", parameters, 2 * parameters, "unknown", 0)

    planned = needed_bytes(model, "cpu", 16 * seq_len, seq_len) / 1e6

    assert peak_mb <= planned <= 1.6 * peak_mb


def test_more_tokens_at_once_and_more_parameters_need_more() -> None:
    small, large = (Model("a/b", "llama", size, 2 * size, "unknown", 0) for size in (10**7, 10**9))

    assert needed_bytes(small, "cpu", 2048) < needed_bytes(small, "cpu", 8192) < needed_bytes(large, "cpu", 8192)


def pool_of(*rooms: float, kind: Any = "gpu", combinable: bool = True) -> Pool:
    devices = tuple(Device(str(number), number, int(room * GB), int(room * GB)) for number, room in enumerate(rooms))
    return Pool(kind, devices, 1, combinable)


@pytest.mark.parametrize(("smallest", "planned"), [(0, 13 * GB), (12.5, 13 * GB), (24, 24 * GB)])
def test_on_a_gpu_the_weights_get_a_tenth_and_2_gb_more_or_what_the_model_states(smallest: float, planned: int) -> None:
    model = Model("a/model", "llama", 5 * 10**9, 10 * GB, "unknown", smallest)

    assert needed_bytes(model, "gpu") == pytest.approx(planned, abs=1)


def test_a_model_over_several_devices_leaves_some_room_on_each() -> None:
    assert fits(10, [10])
    assert not fits(11, [10])
    assert fits(19, [10, 10])
    assert not fits(20, [10, 10])


@pytest.mark.parametrize(
    ("need", "combinable", "devices"),
    [(8, True, 1), (9, True, 2), (11.4, True, 2), (12, True, 3), (14, True, None), (8, False, 1), (9, False, None)],
)
def test_a_model_takes_the_fewest_devices_it_fits_on_the_largest_first(
    need: float, combinable: bool, devices: int | None
) -> None:
    assert devices_needed(int(need * GB), pool_of(2, 8, 4, combinable=combinable)) == devices


def test_a_model_too_large_for_the_devices_is_named_with_their_sizes() -> None:
    needs = {"small": 8 * GB, "large": 205 * GB // 10}

    assert list(memory_problems(pool_of(8, 8, 8), {"small": 8 * GB})) == []
    (together,) = memory_problems(pool_of(8, 4), needs)
    (alone,) = memory_problems(pool_of(8, 4, combinable=False), needs)
    (slots,) = memory_problems(pool_of(8, 4, kind="cpu"), needs)
    assert together.startswith("large: needs 20.5 GB, and the 2 GPUs of this run have 12 GB")
    assert alone.startswith("large: needs 20.5 GB, and the 2 GPUs of this run have 8 GB")
    assert slots.startswith("large: needs 20.5 GB, and the 2 CPU slots of this run have 12 GB")


def test_a_case_of_an_embedded_model_takes_no_more_than_is_planned(real_run: Any) -> None:
    model = read_models(ROOT / "suites/models.toml").models["embedded/mistral-tiny"]

    logs = "".join(path.read_text("utf-8") for path in (real_run.directory / "logs").glob("*.log"))

    peaks = [float(size) for size in re.findall(r"peak process memory: ([0-9.]+) MB", logs)]
    # getrusage may report the peak of the parent process that this one was forked from, so it can only be too large
    assert needed_bytes(model, "cpu", 16 * 128, 128) / 1e6 <= 1.6 * max(peaks)
