"""The script that wants a GPU, run on a CPU at a tiny shape: what it says there is no measurement, that it runs is."""

import json
import os
from pathlib import Path

import pytest
from processes import python, succeed

from invarlock.faults import BY_NAME as FAULTS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu_with_a_tiny_shape(tmp_path: Path) -> None:
    given = (ROOT / "benchmarks/gpu.py", "--shape", "tiny", "--device", "cpu", "--models", "1")
    places = ("--folder", tmp_path, "--json", tmp_path / "out.json")

    done = succeed(python(*given, *places, env={**os.environ, "OMP_NUM_THREADS": "1"}))

    found = json.loads((tmp_path / "out.json").read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    cases = {row["case"]: row for row in found["cases"]}
    assert FAULTS.keys() < cases.keys()
    assert (cases["noop"]["spectral"], cases["scale_explosion"]["spectral"]) == ("pass", "warn")
    assert (cases["nan_injection"]["invariants"], cases["missing_tensors"]["scored"]) == ("fail", False)
    # the CPU against itself, and its sigma against the exact one
    (row,) = found["agreement"]
    assert (row["loss"], row["edge risk"], row["rms"]) == (0, 0, 0)
    assert 0 < row["sigma"] < 1e-4
    assert all(stage["floor_seconds"] > 0 for stage in found["stages"])
    assert "| sigma of all matrices |" in done.stdout
