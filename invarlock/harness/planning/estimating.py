"""Estimating the cost of a run; the estimate is printed before the first case."""

from __future__ import annotations

from collections.abc import Sequence

from invarlock.catalog.cases import Case
from invarlock.catalog.costs import Costs, ModelSize
from invarlock.catalog.estimates import FIXED_SECONDS, START_SECONDS, Workload, duration_text, estimate_line, size_text
from invarlock.catalog.models import Model
from invarlock.harness.devices.inventory import Pool
from invarlock.harness.planning.presets import calibrates
from invarlock.harness.planning.sizing import disk_bytes, model_needs
from invarlock.harness.sources.texts import window_counts
from invarlock.harness.state.run import Run
from invarlock.machine_speed import MachineSpeed, measure_speed
from invarlock.reports.null_runs import NULL_WINDOWS

# A null run measures the baseline and three harmless changes to it.
SUBJECTS_OF_A_NULL_RUN = 3


def run_estimate(run: Run, cases: Sequence[Case]) -> str:
    """Return a line with the time, memory and disk space that a run takes; on CPUs, the machine's speed is measured.

    Args:
        run: the run, whose directory exists.
        cases: the cases of the run.
    """
    needs, pool = model_needs(run, cases), Pool.read(run.directory.devices)
    disk, workers = disk_bytes(run, needs), min(run.workers, len(pool.devices), len(cases))
    if pool.kind == "gpu":
        costs = Costs()
        seconds = sum(costs.case_seconds(case) for case in cases)
        seconds += sum(costs.baseline_seconds(ModelSize.of(need.model), _runs(need.model, cases)) for need in needs)
        time = duration_text(seconds / workers)
        largest = max(need.memory_bytes for need in needs)
        sizes = f"{size_text(largest)} of GPU memory for a case, {size_text(disk)} of disk"
        return f"estimate: {time}, {sizes}; by the rates of data-centre GPUs, not measured here"
    speed = measure_speed(run.directory.path)
    fixed, work = 0, 0.0
    for need in needs:
        measurements, seconds = _of_model(
            run, need.model, [case for case in cases if case.model.id == need.model.id], speed
        )
        fixed, work = fixed + measurements, work + seconds
    memory = workers * max(need.memory_bytes for need in needs)
    # the measured speed is that of all processors, which the workers share
    return estimate_line(START_SECONDS + fixed * FIXED_SECONDS / workers + work, memory, disk, speed)


def _of_model(run: Run, model: Model, cases: Sequence[Case], speed: MachineSpeed) -> tuple[int, float]:
    """Return the number of checkpoints measured for a model's cases, and the seconds that depend on its size."""
    counts = window_counts(run)
    measurements, seconds = 0, 0.0

    def add(windows: int, baselines: int, subjects: int) -> None:
        nonlocal measurements, seconds
        workload = Workload(model.parameters, windows, counts.seq_len, model.weight_bytes)
        measurements += baselines + subjects
        seconds += baselines * workload.baseline_seconds(speed)
        seconds += subjects * (workload.subject_seconds(speed) + workload.edit_seconds(speed))

    add(counts.preview + counts.final, _runs(model, cases), len(cases))
    if calibrates(run):
        null_runs = run.settings.calibration_runs
        add(min(counts.final, NULL_WINDOWS), null_runs, SUBJECTS_OF_A_NULL_RUN * null_runs)
    return measurements, seconds


def _runs(model: Model, cases: Sequence[Case]) -> int:
    return len({case.run for case in cases if case.model.id == model.id})
