"""Estimates of time, memory and disk, before anything is measured."""

from pathlib import Path

import pytest

from invarlock.catalog.estimates import Workload, duration_text, estimate_line, process_bytes, size_text
from invarlock.machine_speed import SLOW_WRITE, MachineSpeed, measure_speed

SPEED = MachineSpeed(flops=1e11, write=1e9)


def test_the_work_grows_with_the_model_and_the_text_and_shrinks_with_the_speed() -> None:
    small, large = Workload(10_000_000, 64, 512, 20_000_000), Workload(20_000_000, 64, 512, 40_000_000)
    longer, faster = Workload(10_000_000, 640, 512, 20_000_000), MachineSpeed(2e11, 2e9)

    assert large.baseline_seconds(SPEED) == pytest.approx(2 * small.baseline_seconds(SPEED))
    assert 5 * small.subject_seconds(SPEED) < longer.subject_seconds(SPEED) < 10 * small.subject_seconds(SPEED)
    assert small.subject_seconds(faster) == pytest.approx(small.subject_seconds(SPEED) / 2)
    assert small.edit_seconds(SPEED) == pytest.approx(0.02)
    # at least the operations of its forward passes
    assert small.baseline_seconds(SPEED) > 2 * 10_000_000 * 64 * 512 / 1e11


def test_a_process_has_room_for_the_weights_and_for_a_mapped_file_of_the_same_size() -> None:
    assert process_bytes(1_000_000_000, 2048, 512) > 2 * 4_000_000_000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "about 5 s"), (41, "about 45 s"), (61, "about 2 min"), (3500, "about 59 min"), (9000, "about 2.5 h")],
)
def test_a_duration_claims_no_more_than_an_estimate_knows(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words


def test_the_line_has_time_memory_and_disk() -> None:
    assert estimate_line(100, 1_340_000_000, 27_100_000, SPEED) == (
        "estimate: about 2 min, 1.3 GB of memory, 27 MB of disk; this machine computes 100 GFLOP/s at the moment"
    )
    assert estimate_line(None, 10**9, 1, None).startswith("estimate: time unknown on a GPU")
    assert size_text(999) == "less than 1 MB"


def test_the_speed_of_this_machine_is_measured_for_a_folder_that_need_not_exist(tmp_path: Path) -> None:
    speed = measure_speed(tmp_path / "not" / "there")

    assert 1e8 < speed.flops < 1e16
    assert speed.write != SLOW_WRITE
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_counts_as_slow() -> None:
    assert measure_speed(Path("/proc/self")).write == SLOW_WRITE
