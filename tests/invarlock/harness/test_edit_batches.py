"""The next edits of one model are made in one pass, as many as disk space and workers allow."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.run_directory import RunDirectory

from invarlock.catalog.cases import Case
from invarlock.catalog.edit_specs import EditSpec
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import EditGeneration, read_scenarios
from invarlock.catalog.tuned_params import read_tuned_params
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import EditSummary, apply_each_edit, apply_edits
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.edits import magnitude_prune
from invarlock.errors import CheckpointError, EditError
from invarlock.harness.cases import edit_batches
from invarlock.harness.cases.edit_batches import EditBatches
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import make_catalog
from invarlock.harness.state.leftovers import remove_unfinished
from invarlock.harness.state.locks import Locks
from invarlock.harness.state.run import Run
from invarlock.settings import resolve_settings

SUITES = Path(__file__).parents[3] / "suites"
EDITS = ("quant_4bit_clean", "fp8_e5m2_clean", "prune_clean", "quant_8bit_stress")
SPECS = ("quant_rtn:4:32:ffn", "fp8_quant:e5m2:ffn", "magnitude_prune:0.26:ffn", "quant_rtn:8:128:all")


class Setting:
    """A run of four edits of one model, and the edits of each pass."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> None:
        models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
        settings = resolve_settings({}, {"MIN_FREE_DISK_GB": "0.001"})
        catalog = make_catalog(models, scenarios, MarkExpression.parse("smoke"), [], settings)
        directory = RunDirectory(folder / "run")
        self.run = Run(SUITES, settings, catalog, directory, workers, datetime.now(UTC), {})
        self.cases = [case for case in catalog.cases if case.id in {f"mistral-tiny-{name}-run1" for name in EDITS}]
        model = self.cases[0].model
        self.snapshot = directory.baseline_snapshot(model)
        assert model.path is not None
        assert model.tokenizer_path is not None
        make_snapshot(SUITES / model.path, SUITES / model.tokenizer_path, self.snapshot, model.revision)
        self.passes: list[list[str]] = []
        self.summaries: list[Mapping[Path, EditSummary | EditError]] = []

        def counted(baseline: Path, subjects: Mapping[Path, EditSpec]) -> Any:
            self.passes.append(sorted(map(str, subjects.values())))
            self.summaries.append(apply_each_edit(baseline, subjects))
            return self.summaries[-1]

        monkeypatch.setattr(edit_batches, "apply_each_edit", counted)
        self.edits = self.worker()

    def worker(self) -> EditBatches:
        tuned = read_tuned_params(self.run.tuned_params_path)
        locks = Locks(self.run.directory, 60.0)
        return EditBatches(self.run, tuned, locks, [case.id for case in self.cases])

    def spec(self, case: Case) -> EditSpec:
        assert isinstance(case.scenario.generation, EditGeneration)
        tuned = read_tuned_params(self.run.tuned_params_path)
        return tuned.resolve(case.scenario.generation.for_model(case.model.id), case.model.id)

    def make(self, case: Case) -> tuple[Path, Any]:
        subject = self.run.directory.subject(case)
        return subject, self.edits.make(case, self.snapshot, subject)


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)


def test_the_edits_of_a_model_are_made_in_one_pass_and_are_those_of_separate_ones(
    setting: Setting, tmp_path: Path
) -> None:
    made = {case.scenario.id: setting.make(case) for case in setting.cases}

    assert setting.passes == [sorted(SPECS)]
    for case in setting.cases:
        subject, edited = made[case.scenario.id]
        spec = setting.spec(case)
        alone = apply_edits(setting.snapshot, {tmp_path / case.scenario.id: spec})[tmp_path / case.scenario.id]
        assert digest_checkpoint(subject) == digest_checkpoint(tmp_path / case.scenario.id)
        assert sorted(path.name for path in subject.iterdir()) == sorted(
            path.name for path in (tmp_path / case.scenario.id).iterdir()
        )
        assert (edited.edited_tensors, edited.edited_params) == (alone.edited_tensors, alone.edited_params)
    # each case records its edit's share of the time of the pass
    shares = [one.seconds for one in setting.summaries[0].values() if isinstance(one, EditSummary)]
    assert sorted(edited.seconds for _, edited in made.values()) == sorted(shares)
    assert len(set(shares)) == len(EDITS)


def test_an_edit_can_be_made_alone(setting: Setting) -> None:
    case = setting.cases[0]

    setting.edits.make(case, setting.snapshot, setting.run.directory.subject(case), alone=True)

    assert setting.passes == [[str(setting.spec(case))]]


def test_finished_and_started_edits_are_not_made_again(setting: Setting) -> None:
    done, begun, *others = setting.cases
    setting.run.directory.report(done).parent.mkdir(parents=True)
    setting.run.directory.report(done).write_text("{}")
    setting.run.directory.subject(begun).mkdir(parents=True)

    for case in others:
        setting.make(case)

    assert setting.passes == [sorted(str(setting.spec(case)) for case in others)]


def test_another_worker_takes_prepared_subjects_and_leaves_out_claimed_ones(setting: Setting) -> None:
    first, second, *_ = setting.cases
    with Locks(setting.run.directory, 60.0).acquire(f"edit_{second.id}"):
        setting.make(first)

    assert len(setting.passes[0]) == len(EDITS) - 1
    setting.edits = setting.worker()
    for case in setting.cases[1:]:
        setting.make(case)
    assert len(setting.passes) == 2


@pytest.mark.parametrize(("spare_subjects", "sizes"), [(0, [1, 1, 1, 1]), (1, [2, 2]), (2, [3, 1]), (50, [4])])
def test_a_pass_makes_no_more_subjects_than_fit_on_the_disk(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, spare_subjects: int, sizes: list[int]
) -> None:
    size = sum(path.stat().st_size for path in setting.snapshot.iterdir())
    usage = shutil.disk_usage(setting.snapshot)
    free = int(0.001e9) + int((spare_subjects + 0.5) * size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))

    for case in setting.cases:
        setting.make(case)

    assert [len(one) for one in setting.passes] == sizes


def test_workers_share_the_edits_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(tmp_path, monkeypatch, workers=2)

    setting.make(setting.cases[0])

    assert len(setting.passes[0]) == 2


def test_an_edit_that_cannot_be_applied_does_not_stop_the_others(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(magnitude_prune, "prune_magnitude", lambda weight, _: weight * math.inf)
    broken = next(case for case in setting.cases if case.scenario.id == "prune_clean")
    others = [case for case in setting.cases if case != broken]

    for case in others:
        assert setting.make(case)[1].edited_tensors > 0
    with pytest.raises(EditError, match="non-finite"):
        setting.make(broken)

    # once in the pass with the others, and once for its own case, which reports the reason
    assert [len(one) for one in setting.passes] == [len(EDITS), 1]
    assert not list(setting.run.directory.subject(broken).parent.glob(f"*{broken.scenario.id}*"))


def test_an_edit_that_cannot_be_applied_makes_the_others_in_the_pass_of_its_own_case(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(magnitude_prune, "prune_magnitude", lambda weight, _: weight * math.inf)
    broken = next(case for case in setting.cases if case.scenario.id == "prune_clean")

    with pytest.raises(EditError, match="non-finite"):
        setting.make(broken)
    for case in setting.cases:
        if case != broken:
            setting.make(case)

    assert [len(one) for one in setting.passes] == [len(EDITS)]


def test_a_disk_without_room_for_all_subjects_gets_the_one_that_is_needed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(baseline: Path, subjects: Mapping[Path, EditSpec]) -> Any:
        setting.passes.append(sorted(map(str, subjects.values())))
        if len(subjects) > 1:
            raise CheckpointError("no space left on device")
        return apply_each_edit(baseline, subjects)

    monkeypatch.setattr(edit_batches, "apply_each_edit", full)

    subject, _ = setting.make(setting.cases[0])

    assert [len(one) for one in setting.passes] == [len(EDITS), 1]
    assert [path.name for path in subject.parent.iterdir()] == [subject.name]


def test_unused_subjects_are_removed_at_the_end(setting: Setting) -> None:
    subject, _ = setting.make(setting.cases[0])
    keeping = replace(setting.run, settings=resolve_settings({"keep_models": True}, {}))
    assert len(list(subject.parent.glob("*__prepared"))) == len(EDITS) - 1

    remove_unfinished(keeping)

    assert sorted(path.name for path in subject.parent.iterdir()) == [subject.name]
