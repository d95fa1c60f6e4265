"""Running the cases of a worker: each subject is made, measured against its baseline, and removed.

A case is finished when its ``runtime.manifest.json`` exists; this file has the digest of the report in the same folder.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch

from invarlock.catalog.cases import Case
from invarlock.catalog.models import Model
from invarlock.catalog.scenarios import DeployableGeneration
from invarlock.deployables.artifacts import examine_artifact
from invarlock.documents.reports import Report
from invarlock.errors import OutOfMemoryError
from invarlock.evaluation.comparison import compare
from invarlock.evaluation.measurements import SubjectMeasurement
from invarlock.evaluation.models import NATIVE, Placement
from invarlock.evaluation.request import EvaluationRequest
from invarlock.harness.baselines.baseline_reports import Baselines
from invarlock.harness.baselines.calibration import Calibration
from invarlock.harness.baselines.resuming import kept_report
from invarlock.harness.cases.case_facts import case_facts
from invarlock.harness.cases.case_files import MeasuredCase, write_case
from invarlock.harness.cases.edit_batches import EditBatches
from invarlock.harness.cases.next_subject import NextSubject
from invarlock.harness.cases.subjects import MadeSubject, make_subject, subject_digest, subject_spec
from invarlock.harness.devices.inventory import Pool
from invarlock.harness.devices.leases import TURN_SECONDS, WAIT_SECONDS, Leases
from invarlock.harness.planning.plan import PlannedNullRun
from invarlock.harness.state.leftovers import worker_lock
from invarlock.harness.state.locks import TIMES_CASE_TIMEOUT, Locks, Waiting
from invarlock.harness.state.run import Run
from invarlock.jsonio import read_json, write_bytes
from invarlock.judgement.expectations import parse_expectations
from invarlock.reports.documents import NullRunDocument
from invarlock.reports.page_files import write_page
from invarlock.reports.probes import required_probes
from invarlock.reports.sidecars import PAGE_NAME
from invarlock.runtime.determinism import apply_determinism
from invarlock.stages import stage

# A case that ran out of memory is run once more, with this multiple of the memory.
RETRY_FACTOR = 2

_log = logging.getLogger(__name__)
T = TypeVar("T")


class CaseRunner:
    """Runs a worker's cases. It leases devices for each case, and keeps a GPU between cases of the same model.

    It enters the context ``waiting`` while it waits for devices or for another worker. ``began`` is the value of
    ``time.perf_counter`` when the caller began to load PyTorch for this runner.
    """

    def __init__(self, run: Run, waiting: Waiting = nullcontext, began: float | None = None) -> None:
        self.run = run
        self._waiting = waiting
        timeout = run.settings.case_timeout
        self._locks = Locks(run.directory, timeout, waiting)
        self._alive = worker_lock(run.directory, run.worker)
        pool = Pool.read(run.directory.devices)
        _show_gpus(pool, run.worker)
        apply_determinism(run.settings.determinism, pool.threads)
        longest = max(WAIT_SECONDS, TIMES_CASE_TIMEOUT * timeout)
        self.leases = Leases(run.directory.locks / "devices", pool, run.worker, longest)
        placement = Placement(
            "cuda" if pool.kind == "gpu" else "cpu", attention=run.attention(pool.kind), scoring=run.settings.scoring
        )
        self.baselines = Baselines(run, placement, self._locks)
        self.calibration = Calibration(run, self.baselines, self._locks)
        self.tuned = run.tuned_params()
        plan = read_json(run.directory.state / "plan.json")
        self._needs: dict[str, int] = {row["model"]: row["memory_bytes"] for row in plan["models"]}
        self.edits = EditBatches(run, self.tuned, self._locks, plan["cases"], plan["disk_bytes"])
        self._next = NextSubject(run, self.edits, self._locks, pool, torch.get_num_threads(), plan)
        self._following: Case | None = None
        self._repeated = frozenset(plan["repeated"])
        self._at: Model | None = None
        # how long the last evaluated case waited for results that several cases share
        self.shared_seconds = 0.0
        self._loading_seconds = 0.0 if began is None else time.perf_counter() - began

    def evaluate(self, case: Case, following: Case | None = None) -> Report:
        """Run a case, write its files, and return its report with its probes.

        A case that runs out of memory is run once more, with a lease on twice the memory.

        Args:
            case: the case.
            following: the next case of this worker, whose subject may be made while this one is measured.

        Raises:
            InvarLockError: if the baseline does not match its pin, or the subject cannot be made or does not fit into
                memory.
        """
        self._following = following
        self.shared_seconds, self._loading_seconds = self._loading_seconds, 0.0
        return self._on_devices(case, self._evaluate)

    def prepare(self, case: Case) -> None:
        """Measure the baseline of a case's model and make its preset, unless they exist.

        Raises:
            InvarLockError: if the baseline does not match its pin, or does not fit into memory.
        """
        self._on_devices(case, self._prepare)

    def close(self) -> None:
        """End the process that makes the next subject."""
        self._next.stop()

    def _on_devices(self, case: Case, work: Callable[[Case, Placement], T]) -> T:
        need = self._needs[case.model.id]
        try:
            with self._leased(case.model, need) as placement:
                return work(case, placement)
        except OutOfMemoryError:
            # the retry is outside this clause, so that the error's frames do not keep tensors of the first try alive
            _log.warning("out of memory with %s; retrying with %s", _size(need), _size(RETRY_FACTOR * need))
        with self._leased(case.model, RETRY_FACTOR * need) as placement:
            return work(case, placement)

    def _evaluate(self, case: Case, placement: Placement) -> Report:
        # a suites folder may have several tests for a case: the first makes the report, the others read it
        made = self._next.take(case)
        with self._locks.acquire(f"case_{case.id}"):
            return self._evaluate_alone(case, placement, made)

    def _evaluate_alone(self, case: Case, placement: Placement, made: MadeSubject | None) -> Report:
        request = self._prepare(case, placement)
        path = self.run.directory.report(case)
        repeats = self.run.settings.repeats if case.scenario.id in self._repeated else 0
        if path.is_file():
            digest = subject_digest(case, request.baseline.snapshot)
            kept = kept_report(case, path, request, subject_spec(case, self.tuned), repeats, digest)
            if kept is not None:
                _log.info("the report exists, verifies and has the same inputs: kept")
                return kept
        with stage(f"{case.model.short_name} {case.scenario.id}"):
            found = self._measure(case, request, 1 + repeats, made)
        _log_measured(found.measurements[0], placement)
        return self._write(found)

    def _prepare(self, case: Case, placement: Placement) -> EvaluationRequest:
        """Measure a case's baseline and make its preset if needed; return the case's evaluation request."""
        started = time.perf_counter()
        with stage(f"baseline {case.model.short_name}"):
            baseline = self.baselines.baseline(case.model, placement)
            _log.info("baseline %s is ready after %.2f s", case.model.id, time.perf_counter() - started)
            preset = self.calibration.preset(case.model, baseline, placement)
        self.shared_seconds += time.perf_counter() - started
        return EvaluationRequest(
            replace(self.baselines.setup(case.model), preset=preset),
            baseline,
            case.scenario.id,
            case.run,
            self.baselines.draw(case.model, case.run),
            placement,
            probe=bool(required_probes(case.scenario.document)),
        )

    def _measure(self, case: Case, request: EvaluationRequest, times: int, made: MadeSubject | None) -> MeasuredCase:
        """Measure a case's subject ``times`` times, and remove it unless subjects are kept; make it if necessary."""
        subject, snapshot, placement = self.run.directory.subject(case), request.baseline.snapshot, request.placement
        examined: Mapping[str, Mapping[str, Any]] = {}
        keeps = bool(self.run.settings.keep_models)
        try:
            # another worker with the same case may have removed the subject since
            if made is None or not subject.is_dir():
                shutil.rmtree(subject, ignore_errors=True)
                # the second process makes the next subjects, if it can
                alone = self._next.takes(self._following, case, snapshot)
                made = make_subject(case, self.tuned, self.edits, snapshot, subject, placement, alone=alone)
            self._next.begin(self._following, case, snapshot)
            _log.info("subject made by %s in %.2f s: %d tensors changed", made.spec, made.seconds, made.edited_tensors)
            generation, comparison = case.scenario.generation, request.comparison()
            if isinstance(generation, DeployableGeneration):
                # a deployable subject is scored in the form in which it is served
                comparison = replace(request, placement=replace(placement, scoring=NATIVE)).comparison()
                examined = examine_artifact(snapshot, subject, generation.spec, placement, request.draw)
            comparison = replace(comparison, expected=parse_expectations(made.expected))
            measurements = [compare(subject, comparison) for _ in range(times)]
        finally:
            # all runs of a scenario have the same subject, so only one is kept
            if not keeps or case.run > 1:
                shutil.rmtree(subject, ignore_errors=True)
        return MeasuredCase(case, request, replace(made, kept=keeps), measurements, examined)

    def _write(self, found: MeasuredCase) -> Report:
        """Write a case's report and its sidecars, either all of them or none."""
        case, settings = found.case, self.run.settings
        path, subject = self.run.directory.report(case), self.run.directory.subject(case)
        # a page left by an earlier report would describe that report
        path.with_name(PAGE_NAME).unlink(missing_ok=True)
        try:
            report = write_case(path, found)
            if settings.keep_models and subject.is_dir():
                # the copy shows a later reader of the subject how it was made
                name = "edit_metadata.json"
                write_bytes(subject / name, path.with_name(name).read_bytes())
            if not (settings.skip_html or settings.defer_rendering):
                write_page(path)
        except BaseException:  # including Ctrl-C
            # a report without its sidecars must not look complete
            path.unlink(missing_ok=True)
            raise
        _log.info("report written: %s, ratio %s, guards %s", *case_facts(report).values())
        return report

    def calibrate(self, null_run: PlannedNullRun) -> NullRunDocument:
        """Measure a null run unless its document exists, write the document and return it.

        Raises:
            InvarLockError: if the baseline does not match its pin, or cannot be measured.
        """
        with self._leased(null_run.model, self._needs[null_run.model.id]) as placement:
            return self.calibration.measure(null_run, placement)

    @contextmanager
    def _leased(self, model: Model, need_bytes: int) -> Iterator[Placement]:
        """Yield the placement of a model on devices that are leased exclusively to this worker."""
        if self._at != model:
            self._let_go()
        lease = self.leases.lease
        if lease is None:
            with self._waiting(), stage(f"waiting for a device for {model.short_name}"):
                lease = self.leases.take(need_bytes)
        self._at = model
        pool = self.leases.pool
        gpu = pool.kind == "gpu"
        # CUDA shows this process only one MIG instance, which has the number 0
        numbers = [device.index if pool.combinable else 0 for device in lease.devices]
        _log.info("devices: %s, for %s", ", ".join(device.id for device in lease.devices), _size(need_bytes))
        rooms = tuple(zip(numbers, lease.rooms, strict=True))
        if gpu:
            torch.cuda.set_device(numbers[0])
        try:
            code, settings = self.run.runs_code_of(model), self.run.settings
            bounded = rooms if gpu or self._is_bounded() else ()
            yield Placement("cuda" if gpu else "cpu", bounded, code, self.run.attention(pool.kind), settings.scoring)
        except BaseException:  # including an interrupt or a failed test: no device stays leased
            self._let_go()
            raise
        waiting = self.leases.longest_wait_seconds()
        if not gpu or (waiting is not None and waiting > TURN_SECONDS):
            self._let_go()

    def _is_bounded(self) -> bool:
        return self.leases.pool.bytes_per_device is not None

    def _let_go(self) -> None:
        """Release the devices, after freeing our memory on them."""
        self._at = None
        if self.leases.pool.kind == "gpu" and self.leases.lease is not None:
            torch.cuda.empty_cache()
        self.leases.give_back()


def _log_measured(measured: SubjectMeasurement, placement: Placement) -> None:
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in measured.seconds.items())
    _log.info("subject measured: %s", stages)
    if measured.not_scored is not None:
        _log.warning("subject not scored: %s", measured.not_scored)
    if placement.device == "cuda":
        _log.info("peak GPU memory: %s", _size(torch.cuda.max_memory_allocated()))
    # ru_maxrss is in kilobytes on Linux
    _log.info("peak process memory: %s", _size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**10 else f"{count / 1e6:.0f} MB"


def _show_gpus(pool: Pool, worker: int) -> None:
    """Make CUDA number GPUs as the pool does; call this before CUDA starts.

    CUDA shows a process only one MIG instance.
    """
    if pool.kind != "gpu":
        return
    seen = pool.devices if pool.combinable else (pool.devices[worker % len(pool.devices)],)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(device.id for device in seen)
