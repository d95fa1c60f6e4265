"""The estimated time of a run: on CPUs from this machine's speed, on GPUs from typical rates."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.harness.devices.inventory import Device, Pool
from invarlock.harness.planning.estimating import run_estimate
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import make_catalog
from invarlock.harness.state.run import Run
from invarlock.settings import resolve_settings

SUITES = Path(__file__).parents[3] / "suites"


def hours(line: str) -> float:
    """Return the duration at the beginning of a line, in hours."""
    found = re.match(r"estimate: about ([0-9.]+) (s|min|h), ", line)
    assert found is not None, line
    number, unit = found.groups()
    return float(number) * {"s": 1 / 3600, "min": 1 / 60, "h": 1}[unit]


@pytest.mark.parametrize(("suite", "kind"), [("smoke", "cpu"), ("full", "gpu")])
def test_more_cases_take_longer(tmp_path: Path, suite: str, kind: Literal["cpu", "gpu"]) -> None:
    settings = resolve_settings({"execution_mode": "host"}, {})
    models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
    catalog = make_catalog(models, scenarios, MarkExpression.parse(suite), [], settings)
    run = Run(SUITES, settings, catalog, RunDirectory(tmp_path / "run"), 1, datetime.now(UTC), {})
    cases = [case for case in catalog.cases if suite in case.suites]
    run.directory.state.mkdir(parents=True)
    Pool(kind, (Device("0", 0, 80_000_000_000, 80_000_000_000),), 1).write(run.directory.devices)

    few, all_of_them = run_estimate(run, cases[:3]), run_estimate(run, cases)

    assert hours(few) < hours(all_of_them)
    assert ("by the rates of data-centre GPUs, not measured here" in few) == (kind == "gpu")
    assert ("this machine computes" in few) == (kind == "cpu")
    assert re.search(r" [0-9.]+ GB of GPU memory for a case, | [0-9.]+ [GM]B of memory, ", few)
    assert few.count("of disk") == 1
