"""The full suite on 4 and 8 GPUs, with real cases, leases and work stealing, and simulated durations."""

from pathlib import Path

import pytest
from suite_simulation import simulate

from invarlock.catalog.costs import Costs


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [4, 8])
@pytest.mark.parametrize("costs", [Costs(), Costs(disk=5e8), Costs(compute=5e13)], ids=["assumed", "disk", "compute"])
def test_the_full_suite_takes_at_most_a_quarter_longer_than_its_work_allows(
    gpus: int, costs: Costs, tmp_path: Path
) -> None:
    found = simulate(tmp_path, gpus, costs=costs)

    assert found.bound <= found.makespan <= 1.25 * found.bound
    assert 0.8 <= found.busy_share <= 1


def test_a_suite_on_one_gpu_takes_as_long_as_its_work(tmp_path: Path) -> None:
    found = simulate(tmp_path, 1, suite="subset")

    assert found.makespan == pytest.approx(found.bound)
    assert found.busy_share == pytest.approx(1)
