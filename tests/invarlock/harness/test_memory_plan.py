"""The memory that is planned for a model covers what a case of it was measured to take, and not much more."""

import re
from pathlib import Path
from typing import Any

import pytest

from invarlock.catalog.models import Model, read_models
from invarlock.harness.devices.memory_plan import needed_bytes

ROOT = Path(__file__).parents[3]
# Parameters, tokens of a window, and the peak in MB: benchmarks/memory.py, as docs/performance.md has it.
MEASURED = (
    (10_946_816, 128, 992),
    (10_946_816, 512, 1308),
    (134_515_008, 128, 2823),
    (134_515_008, 512, 2957),
    (54_667_776, 128, 1786),
    # a vocabulary of 150,000
    (129_996_864, 128, 3177),
    (291_021_824, 128, 4005),
    (290_874_368, 128, 5439),
)


@pytest.mark.parametrize(("parameters", "seq_len", "peak_mb"), MEASURED)
def test_measured_peaks_fit_into_what_is_planned(parameters: int, seq_len: int, peak_mb: int) -> None:
    model = Model("a/model", "llama", parameters, 2 * parameters, "unknown", 0)

    planned = needed_bytes(model, "cpu", 16 * seq_len, seq_len) / 1e6

    assert peak_mb <= planned <= 1.6 * peak_mb


def test_more_tokens_at_once_and_more_parameters_need_more() -> None:
    small, large = (Model("a/b", "llama", size, 2 * size, "unknown", 0) for size in (10**7, 10**9))

    assert needed_bytes(small, "cpu", 2048) < needed_bytes(small, "cpu", 8192) < needed_bytes(large, "cpu", 8192)


def test_a_case_of_an_embedded_model_takes_no_more_than_is_planned(real_run: Any) -> None:
    model = read_models(ROOT / "suites/models.toml").models["embedded/mistral-tiny"]

    logs = "".join(path.read_text("utf-8") for path in (real_run.directory / "logs").glob("*.log"))

    peaks = [float(size) for size in re.findall(r"peak process memory: ([0-9.]+) MB", logs)]
    # what getrusage says of a process may be the peak of the one that it was forked from: larger, never smaller
    assert needed_bytes(model, "cpu", 16 * 128, 128) / 1e6 <= 1.6 * max(peaks)
