"""The subject of a worker's next case is made in a second process while the present case is measured."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.catalog.cases import Case
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.evaluation.models import Placement
from invarlock.harness.cases import next_subject
from invarlock.harness.cases.edit_batches import EditBatches
from invarlock.harness.cases.next_subject import NextSubject, spare_threads
from invarlock.harness.cases.subjects import make_subject
from invarlock.harness.devices.inventory import Device, Pool
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import make_catalog
from invarlock.harness.state.leftovers import remove_unfinished
from invarlock.harness.state.locks import Locks
from invarlock.harness.state.run import Run
from invarlock.settings import resolve_settings

SUITES = Path(__file__).parents[3] / "suites"
CPU = Pool("cpu", (Device("cpu0", 0, 10**10, 10**10),), 1)


class Setting:
    """A run of the smoke suite on one process, with spare cores, and its first model's baseline."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
        settings = resolve_settings({}, {"MIN_FREE_DISK_GB": "0.001"})
        self.catalog = make_catalog(models, scenarios, MarkExpression.parse("smoke"), [], settings)
        directory = RunDirectory(folder / "run")
        self.run = Run(SUITES, settings, self.catalog, directory, workers, datetime.now(UTC), {})
        self.tuned, self.locks = read_tuned_params(self.run.tuned_params_path), Locks(directory, 60.0)
        # one edit only, so that a pass makes no other subjects
        self.first, self.edit = self.case("noop_control"), self.case("quant_4bit_clean")
        self.plan: dict[str, Any] = {
            "cases": [self.edit.id],
            "disk_bytes": 0,
            "models": [
                {"model": one.id, "baseline_bytes": 10**6, "memory_bytes": 10**6} for one in models.models.values()
            ],
        }
        model = self.first.model
        assert model.path is not None
        assert model.tokenizer_path is not None
        self.snapshot = directory.baseline_snapshot(model)
        make_snapshot(SUITES / model.path, SUITES / model.tokenizer_path, self.snapshot, model.revision)
        self.edits = EditBatches(self.run, self.tuned, self.locks, self.plan["cases"])
        self.next = NextSubject(self.run, self.edits, self.locks, CPU, threads=1, plan=self.plan)

    def case(self, scenario: str, model: str = "mistral") -> Case:
        return next(one for one in self.catalog.cases if one.id == f"{model}-tiny-{scenario}-run1")

    def begin(self, case: Case | None) -> None:
        self.next.begin(case, self.first, self.snapshot)


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    monkeypatch.setattr(next_subject, "MIN_BASELINE_BYTES", 0)
    monkeypatch.setattr(next_subject, "usable_cores", lambda: 2)
    made = Setting(tmp_path)
    yield made
    made.next.stop()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["quant_4bit_clean", "rank_collapse", "noop_control"])
def test_a_subject_made_ahead_is_the_one_that_its_case_would_make(
    setting: Setting, tmp_path: Path, scenario: str
) -> None:
    case, present = setting.case(scenario), setting.case("quant_8bit_stress")

    setting.next.begin(case, present, setting.snapshot)
    made = setting.next.take(case)

    alone = tmp_path / "alone"
    expected = make_subject(case, setting.tuned, setting.edits, setting.snapshot, alone, Placement("cpu"))
    assert made is not None
    assert replace(made, seconds=0.0) == replace(expected, seconds=0.0)
    subject = setting.run.directory.subject(case)
    assert digest_checkpoint(subject) == digest_checkpoint(alone)
    assert sorted(path.name for path in subject.iterdir()) == sorted(path.name for path in alone.iterdir())
    # given once
    assert setting.next.take(case) is None


@pytest.mark.slow
def test_the_same_process_makes_one_subject_after_another(setting: Setting) -> None:
    setting.begin(setting.edit)
    # another case does not wait for it
    assert setting.next.take(setting.first) is None
    assert setting.next.take(setting.edit) is not None
    process = setting.next._process

    setting.begin(setting.case("nan_injection"))

    assert setting.next.take(setting.case("nan_injection")) is not None
    assert setting.next._process is process


def another_model(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    return setting.case("quant_4bit_clean", "qwen2")


def the_present_case(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    return setting.first


def the_last_case(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    return None


def a_finished_case(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    report = setting.run.directory.report(setting.edit)
    report.parent.mkdir(parents=True)
    report.write_text("{}")
    return setting.edit


def a_small_baseline(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(next_subject, "MIN_BASELINE_BYTES", 10**6 + 1)
    return setting.edit


def little_memory(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    # the second process, the tensors that it edits, and the present case
    needed = next_subject.PROCESS_BYTES + 2 * 10**6
    monkeypatch.setattr(next_subject, "available_memory_bytes", lambda: needed - 1)
    return setting.edit


def no_further_process(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    return setting.edit


def a_full_disk(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    usage = shutil.disk_usage(setting.snapshot)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(0.001e9)))
    return setting.edit


def no_spare_core(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    setting.next = NextSubject(setting.run, setting.edits, setting.locks, CPU, threads=2, plan=setting.plan)
    return setting.edit


def an_edit_that_needs_the_gpu(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    setting.next = NextSubject(setting.run, setting.edits, setting.locks, CPU, threads=1, plan=setting.plan)
    return setting.case("svd_rank32_clean")


@pytest.mark.parametrize(
    "refused",
    [
        another_model,
        the_present_case,
        the_last_case,
        a_finished_case,
        a_small_baseline,
        little_memory,
        no_further_process,
        a_full_disk,
        no_spare_core,
        an_edit_that_needs_the_gpu,
    ],
)
def test_no_subject_is_made_ahead_of(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, refused: Callable[[Setting, pytest.MonkeyPatch], Case | None]
) -> None:
    case = refused(setting, monkeypatch)

    setting.begin(case)

    assert setting.next._process is None
    assert setting.next.take(case or setting.edit) is None


def test_an_edit_that_needs_the_gpu_is_not_made_beside_another(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [setting.edit.id, setting.case("svd_rank32_clean").id, setting.case("prune_clean").id]
    edits = EditBatches(setting.run, setting.tuned, setting.locks, cases, leaves_gpu_edits=True)

    edits.make(setting.edit, setting.snapshot, setting.run.directory.subject(setting.edit))

    prepared = {path.name for path in setting.run.directory.subject(setting.edit).parent.glob("*__prepared")}
    assert prepared == {f"{setting.run.directory.subject(setting.case('prune_clean')).name}__prepared"}


@pytest.mark.slow
def test_a_case_makes_its_own_subject_if_the_process_is_killed(setting: Setting) -> None:
    setting.begin(setting.edit)
    assert setting.next._process is not None
    os.kill(setting.next._process.pid, signal.SIGKILL)

    assert setting.next.take(setting.edit) is None

    setting.begin(setting.case("nan_injection"))
    assert setting.next.take(setting.case("nan_injection")) is not None


@pytest.mark.slow
def test_a_wait_that_is_interrupted_leaves_no_answer_for_the_next_case(setting: Setting) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        # the process starts in two seconds or more
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        setting.begin(setting.edit)
        with pytest.raises(KeyboardInterrupt):
            setting.next.take(setting.edit)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    setting.begin(setting.case("nan_injection"))

    made = setting.next.take(setting.case("nan_injection"))
    assert made is not None
    assert made.name == "nan_injection"


@pytest.mark.slow
def test_a_subject_that_cannot_be_made_is_left_to_its_case(setting: Setting) -> None:
    for path in setting.snapshot.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])

    setting.begin(setting.edit)
    process = setting.next._process

    assert setting.next.take(setting.edit) is None
    assert not setting.run.directory.subject(setting.edit).exists()
    assert process is not None
    assert process.poll() is None


@pytest.mark.slow
def test_a_case_that_another_worker_runs_is_left_to_it(setting: Setting) -> None:
    with setting.locks.acquire(f"case_{setting.edit.id}"):
        setting.begin(setting.edit)
        assert setting.next.take(setting.edit) is None

    assert not setting.run.directory.subject(setting.edit).exists()


@pytest.mark.slow
def test_a_subject_that_no_case_asks_for_is_removed_and_the_next_one_is_made(setting: Setting) -> None:
    subject = setting.run.directory.subject(setting.edit)
    setting.begin(setting.edit)
    while not subject.exists():
        time.sleep(0.05)

    # the test of the case was skipped
    setting.begin(setting.case("nan_injection"))

    assert not subject.exists()
    made = setting.next.take(setting.case("nan_injection"))
    assert made is not None
    assert made.name == "nan_injection"


@pytest.mark.slow
def test_a_stopped_process_leaves_nothing_behind(setting: Setting) -> None:
    setting.begin(setting.edit)
    process = setting.next._process
    assert process is not None

    setting.next.stop()
    remove_unfinished(setting.run)

    assert process.returncode == -signal.SIGKILL
    assert not list(setting.snapshot.parent.glob("models/*"))


@pytest.mark.parametrize(
    ("kind", "threads", "workers", "cores", "spare"),
    [
        ("cpu", 2, 1, 2, 0),
        ("cpu", 1, 1, 2, 1),
        ("cpu", 1, 2, 2, 0),
        ("cpu", 2, 4, 16, 2),
        ("cpu", 1, 4, 2, 0),
        ("gpu", 16, 1, 16, 8),
        ("gpu", 1, 8, 8, 1),
    ],
)
def test_spare_threads(kind: Any, threads: int, workers: int, cores: int, spare: int) -> None:
    pool = Pool(kind, CPU.devices, threads)

    assert spare_threads(pool, threads, workers, cores) == spare


EVERY_SIZE = """

from invarlock.harness.cases import next_subject

next_subject.MIN_BASELINE_BYTES = 0
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a second core is needed")
def test_a_run_that_makes_subjects_ahead_measures_the_same(
    run_pytest: Callable[..., Any], own_suites: Path, tmp_path: Path
) -> None:
    select = ("-k", "mistral and (clean or collapse or injection)")
    plain = run_pytest(*select, directory=tmp_path / "plain", suites=own_suites, OMP_NUM_THREADS="1")
    (own_suites / "conftest.py").write_text((own_suites / "conftest.py").read_text() + EVERY_SIZE)

    ahead = run_pytest(*select, directory=tmp_path / "ahead", suites=own_suites, OMP_NUM_THREADS="1")

    assert (plain.status, ahead.status) == (0, 0), ahead.output
    logs = {path.name: path.read_text() for path in (ahead.directory / "logs").glob("mistral-tiny-*.log")}
    made = [name for name, text in logs.items() if "subject made while another case was measured" in text]
    # all but the first, which makes no other subjects
    assert len(made) == len(logs) - 1
    assert not any("edits in one pass" in text for text in logs.values())
    assert not any(
        "made while another case" in path.read_text() for path in (plain.directory / "logs").glob("mistral-tiny-*.log")
    )
    reports = sorted(path.relative_to(plain.pack) for path in plain.pack.glob("reports/**/evaluation.report.json"))
    assert len(reports) == len(logs)
    for report in reports:
        before, after = ((ran.pack / report).read_bytes() for ran in (plain, ahead))
        assert numbers(before) == numbers(after), report
    assert not list(ahead.directory.glob("*/models/*"))
    assert not list(plain.directory.glob("*/models/*"))


def numbers(report: bytes) -> Any:
    """Return what a report says, without the name of the run and times."""
    document = json.loads(report)
    return {key: value for key, value in document.items() if key not in ("run_id", "telemetry", "meta", "baseline_ref")}
