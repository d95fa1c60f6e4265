"""The bench on which a worker runs its cases: subjects made, measured against their baseline, and removed.

A case is done when its ``runtime.manifest.json`` is there, which binds the report beside it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model
from invarlock.catalog.scenarios import DeployableGeneration
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.deployables.artifacts import examine_artifact, write_weights
from invarlock.errors import OutOfMemoryError
from invarlock.evaluation.comparison import compare
from invarlock.evaluation.documents import reference
from invarlock.evaluation.models import Placement
from invarlock.harness.baselines import Baselines
from invarlock.harness.case_files import write_case
from invarlock.harness.inventory import Pool
from invarlock.harness.leases import TURN_SECONDS, Leases
from invarlock.harness.memory_plan import needed_bytes
from invarlock.harness.resuming import kept_report
from invarlock.harness.run import Run
from invarlock.harness.subjects import make_subject, subject_spec
from invarlock.reports.policy import resolve_policy
from invarlock.reports.probes import probes_asked
from invarlock.runtime.determinism import apply_determinism

# After it ran out of memory, a case is tried once more with so many times the memory.
RETRY_FACTOR = 2


class Bench:
    """A worker's bench. It holds devices while it runs a case, a GPU also between cases of one model."""

    def __init__(self, run: Run) -> None:
        self.run = run
        pool = Pool.read(run.directory.devices)
        _show_gpus(pool, run.worker)
        apply_determinism(run.settings["determinism"], pool.threads)
        self.leases = Leases(run.directory.locks / "devices", pool, run.worker)
        self.baselines = Baselines(run, Placement("cuda" if pool.kind == "gpu" else "cpu"))
        self.policy = resolve_policy(run.settings["tier"], run.settings["profile"], {})
        self.tuned = read_tuned_params(run.tuned_params_path)
        self._at: Model | None = None

    def evaluate(self, case: Case) -> dict[str, Any]:
        """Run a case and return its report with its probes, which are then on disk with its sidecars.

        A case that runs out of memory is run once more, on a lease of twice the memory.

        Raises:
            InvarLockError: when the baseline is not the one pinned, the subject cannot be made, or it does not fit.
        """
        need = needed_bytes(case.model, self.leases.pool.kind)
        try:
            with self._leased(case.model, need) as placement:
                return self._evaluate(case, placement)
        except OutOfMemoryError:
            # outside of this clause, so that the error's frames hold no tensor of the first try
            pass
        with self._leased(case.model, RETRY_FACTOR * need) as placement:
            return self._evaluate(case, placement)

    def _evaluate(self, case: Case, placement: Placement) -> dict[str, Any]:
        baseline = self.baselines.baseline(case.model, placement)
        setup = self.baselines.setup(case.model)
        path = self.run.directory.report(case)
        repeats = self.run.settings["repeats"] if case.scenario.category == "clean" else 0
        if self.run.settings["resume"]:
            spec = subject_spec(case, self.tuned)
            kept = kept_report(case, path, setup, baseline.document, baseline.report_sha256, spec, repeats)
            if kept is not None:
                return kept
        subject = self.run.directory.subject(case)
        weights: Path | None = None
        examined: Mapping[str, Mapping[str, Any]] = {}
        shutil.rmtree(subject, ignore_errors=True)
        try:
            made = make_subject(case, self.tuned, baseline.snapshot, subject, placement)
            draw = self.baselines.draw(case.model, case.run)
            generation = case.scenario.generation
            if isinstance(generation, DeployableGeneration):
                weights = subject.with_name(f"{subject.name}__weights")
                shutil.rmtree(weights, ignore_errors=True)
                write_weights(baseline.snapshot, subject, generation.spec, weights)
                examined = examine_artifact(baseline.snapshot, subject, generation.spec, placement, draw)
            against = reference(
                baseline.document, baseline.snapshot, case.run, probe=bool(probes_asked(case.scenario.document))
            )
            measured, *again = (
                compare(subject, against, draw, setup.plan, placement, self.policy["variance"], weights)
                for _ in range(1 + repeats)
            )
        finally:
            if weights is not None:
                shutil.rmtree(weights, ignore_errors=True)
            # all runs of a scenario have the same subject: one is kept
            if not self.run.settings["keep_models"] or case.run > 1:
                shutil.rmtree(subject, ignore_errors=True)
        return write_case(path, case, setup, baseline, draw, made, measured, again, examined)

    @contextmanager
    def _leased(self, model: Model, need_bytes: int) -> Iterator[Placement]:
        """Yield where a model is placed, on devices that nobody else uses meanwhile."""
        if self._at != model:
            self._let_go()
        lease = self.leases.lease or self.leases.take(need_bytes)
        self._at = model
        pool = self.leases.pool
        gpu = pool.kind == "gpu"
        # of MIG instances CUDA shows this process one
        numbers = [device.index if pool.combinable else 0 for device in lease.devices]
        rooms = tuple(zip(numbers, lease.rooms, strict=True))
        if gpu:
            torch.cuda.set_device(numbers[0])
        try:
            yield Placement("cuda", rooms) if gpu else Placement("cpu", rooms if self._is_bounded() else ())
        except BaseException:
            self._let_go()
            raise
        waiting = self.leases.longest_wait_seconds()
        if not gpu or (waiting is not None and waiting > TURN_SECONDS):
            self._let_go()

    def _is_bounded(self) -> bool:
        return self.leases.pool.bytes_per_device is not None

    def _let_go(self) -> None:
        """Give the devices back, with nothing of ours left on them."""
        self._at = None
        if self.leases.pool.kind == "gpu" and self.leases.lease is not None:
            torch.cuda.empty_cache()
        self.leases.give_back()


def _show_gpus(pool: Pool, worker: int) -> None:
    """Let CUDA, which has not started yet, number GPUs as the pool does; of MIG instances it shows one to a process."""
    if pool.kind != "gpu":
        return
    seen = pool.devices if pool.combinable else (pool.devices[worker % len(pool.devices)],)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(device.id for device in seen)
