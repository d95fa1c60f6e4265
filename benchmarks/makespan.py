"""How close the ``full`` suite comes to its minimum possible time, on one machine and on a fleet (simulated).

    python benchmarks/makespan.py

Real cases, leases and xdist's work stealing run on a simulated clock. The duration of a case comes from the cost model
in ``tests/support/suite_simulation.py``. The lower bound is max(longest case, total work / GPUs), where a case that
needs two GPUs counts twice its time as work. Other rates of disk and compute shift the weight between models.

The second table compares ``--fleet ray`` on nodes with GPUs of two sizes with static shards, one for each node
(``tests/support/fleet_simulation.py``). In each row the product estimates with the assumed rates. In the last rows the
time of each case differs from its estimate by a random factor; the ratio is the mean of five draws.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fleet_simulation import MIXED, OtherTimes, simulate_fleet, static_makespan
from suite_simulation import simulate

from invarlock.catalog.costs import Costs

DRAWS = 5
RATES = {
    "as assumed": Costs(),
    "slow disk (0.5 GB/s)": Costs(disk=5e8),
    "slow compute (50 TFLOP/s)": Costs(compute=5e13),
    "costly low rank (5 s a GB)": Costs(low_rank=5.0),
}


def main() -> None:
    print(f"{'rates':38} {'GPUs':>10} {'makespan':>9} {'bound':>8} {'ratio':>6} {'busy':>5}  largest first")
    for name, costs in RATES.items():
        for gpu_gb, gpus in ((80, 2), (80, 4), (80, 8), (141, 1), (141, 4), (141, 8)):
            found = []
            for large_first in (False, True):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(simulate(Path(folder), gpus, gpu_gb=gpu_gb, costs=costs, large_first=large_first))
            plan, other = found
            print(
                f"{name:38} {gpus:2d} x {gpu_gb:3d}GB {plan.makespan / 3600:7.2f} h {plan.bound / 3600:6.2f} h "
                f"{plan.ratio:6.3f} {plan.busy_share:5.0%}  {other.ratio:.3f}"
            )
    print()
    print(f"{'rates':38} {'GPUs':>10} {'makespan':>9} {'bound':>8} {'ratio':>6} {'pieces':>6}  static shards")
    for name, costs in RATES.items():
        for gpus, nodes in MIXED.items():
            fleet = simulate_fleet(nodes, costs=costs)
            print(
                f"{name:38} {gpus:10} {fleet.makespan / 3600:7.2f} h {fleet.bound / 3600:6.2f} h {fleet.ratio:6.3f} "
                f"{len(fleet.placed):6}  {static_makespan(nodes, costs) / fleet.bound:.3f}"
            )
    for gpus, nodes in MIXED.items():
        draws = [simulate_fleet(nodes, costs=OtherTimes(seed=seed)).ratio for seed in range(DRAWS)]
        print(f"{'other times than estimated':38} {gpus:10} {statistics.mean(draws):29.3f}")


if __name__ == "__main__":
    main()
