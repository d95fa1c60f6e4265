"""Each check that is made before the first case, on runs that are planned in this process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.packer.trust.keys import make_signing_key, write_key_pair

from invarlock.catalog.cases import Case
from invarlock.catalog.models import read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.errors import UsageError
from invarlock.harness.planning.beginning import plan_run
from invarlock.harness.planning.preflight import (
    CALIBRATION_CHECKS,
    CHECKS,
    check_assurance,
    check_container,
    check_disk,
    check_opt_ins,
    check_pack,
    check_remote_code,
    check_run_directory,
    check_source,
    check_sources,
    check_text,
    check_tuned_params,
    problems,
)
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import make_catalog
from invarlock.harness.state.found_sources import Sources, TextSource
from invarlock.harness.state.run import Run
from invarlock.problems import Code, Problem
from invarlock.settings import resolve_settings

SUITES = Path(__file__).parents[3] / "suites"


def planned(folder: Path, *, marks: str = "smoke", **options: object) -> tuple[Run, list[Case]]:
    """Return a run of a suite on the host with some options, and the run's cases."""
    settings = resolve_settings({"execution_mode": "host", **options}, {})
    models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
    catalog = make_catalog(models, scenarios, MarkExpression.parse(marks), [], settings)
    run = Run(SUITES, settings, catalog, RunDirectory(folder), 1, datetime.now(UTC), {})
    return run, [case for case in catalog.cases if catalog.suite in case.suites]


def codes(found: Iterable[Problem]) -> list[Code]:
    return [one.code for one in found]


def problem(message: str) -> Problem:
    return Problem(Code.CONTAINER_UNAVAILABLE, "", "", message)


def test_each_line_of_a_refused_run_has_the_code_of_its_own_problem(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run, cases = planned(tmp_path / "run", signing_key=str(tmp_path / "key.pem"), skip_disk_preflight="1")

    with pytest.raises(UsageError) as caught:
        plan_run(run, cases, print)

    folder, key = caught.value.coded_text.splitlines()
    assert folder.startswith("--output-dir: ")
    assert folder.endswith(f"[{Code.RUN_CANNOT_BEGIN}]")
    assert key.startswith("--signing-key: ")
    assert key.endswith(f"[{Code.KEY_MISSING}]")
    assert caught.value.code is Code.RUN_CANNOT_BEGIN


def test_a_run_that_can_start_has_no_problem(tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run", skip_disk_preflight="1")

    assert problems(run, cases) == []
    assert not run.directory.path.exists()


def test_every_check_is_in_the_list_and_presets_leave_out_those_of_packs_and_clean_cases() -> None:
    left_out = [check.__name__ for check in CHECKS if check not in CALIBRATION_CHECKS]

    assert left_out == ["check_pack", "check_assurance", "check_tuned_params"]


def test_the_folder_of_a_run_must_be_new_or_that_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()

    def found(name: str, **options: Any) -> int:
        return len(list(check_run_directory(*planned(tmp_path / name, **options))))

    assert (found("file"), found("full"), found("empty"), found("new")) == (1, 1, 0, 0)
    assert (found("full", resume=True), found("new", resume=True)) == (1, 1)


def test_a_pack_is_not_written_over_and_its_key_is_read(tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run", signing_key=str(tmp_path / "key.pem"))
    assert codes(check_pack(run, cases)) == [Code.KEY_MISSING]

    write_key_pair(tmp_path / "key.pem", make_signing_key())
    assert list(check_pack(run, cases)) == []

    run.pack_path.mkdir(parents=True)
    # once, though the folder of the run is not empty either
    assert codes([*check_run_directory(run, cases), *check_pack(run, cases)]) == [Code.RUN_CANNOT_BEGIN]
    other = planned(tmp_path / "other", pack_dir=str(run.pack_path))
    assert codes([*check_run_directory(*other), *check_pack(*other)]) == [Code.RUN_CANNOT_BEGIN]
    assert list(check_pack(*planned(tmp_path / "run", no_pack=True))) == []


def test_strict_assurance_needs_a_container_and_a_clean_case(tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run", report_assurance="strict")
    faults = [case for case in cases if case.scenario.category != "clean"]

    assert len(list(check_assurance(run, cases))) == 1
    assert len(list(check_assurance(run, faults))) == 2
    assert list(check_assurance(*planned(tmp_path / "run"))) == []


def test_a_run_in_a_container_says_why_it_is_not_in_one(tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run", execution_mode="container")

    assert len(list(check_container(run, cases))) == 1
    missing = (problem("no engine"), problem("no image"))
    assert tuple(check_container(replace(run, launch_problems=missing), cases)) == missing
    assert list(check_container(*planned(tmp_path / "run"))) == []


def test_gpu_suites_and_models_with_code_need_the_opt_in(tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run", marks="subset")
    code = [replace(case, model=replace(case.model, trust_remote_code=True)) for case in cases]
    allowed, _ = planned(tmp_path / "run", marks="subset", allow_remote_code="1")

    assert len(list(check_opt_ins(run, cases))) == 1
    # a model counts once, however many cases it has
    assert len(list(check_remote_code(run, code))) == len({case.model.id for case in cases})
    assert list(check_remote_code(run, cases)) == []
    assert list(check_opt_ins(allowed, cases)) == list(check_remote_code(allowed, code)) == []


def test_problems_of_sources_are_reported(tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run")
    no_model, no_text = problem("no model"), problem("no text")
    found = replace(run, sources=Sources(problems=(no_model,), texts=(TextSource(problems=(no_text,)),)))

    assert list(check_sources(found, cases)) == [no_model]
    assert list(check_text(found, cases)) == [no_text]


def test_the_source_of_the_suites_folder_is_needed_for_a_pack(tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run")
    elsewhere = replace(run, suites_folder=tmp_path)

    assert list(check_source(run, cases)) == []
    assert len(list(check_source(elsewhere, cases))) == 1
    unpacked, _ = planned(tmp_path / "run", no_pack=True)
    assert list(check_source(replace(unpacked, suites_folder=tmp_path), cases)) == []


def test_clean_cases_need_tuned_parameters(tmp_path: Path) -> None:
    empty = tmp_path / "tuned.json"
    empty.write_text('{"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}')

    run, cases = planned(tmp_path / "run", tuned_params_file=str(empty))
    found = list(check_tuned_params(run, cases))

    models = {case.model.id for case in cases if case.scenario.category == "clean"}
    assert len(found) == len(models)
    assert all(any(model in str(one) for one in found) for model in models)
    absent, _ = planned(tmp_path / "run", tuned_params_file=str(tmp_path / "absent.json"))
    assert len(list(check_tuned_params(absent, cases))) == 1


@pytest.mark.parametrize(("options", "count"), [({}, 1), ({"skip_disk_preflight": "1"}, 0), ({"resume": True}, 0)])
def test_a_disk_that_is_too_small_is_refused(options: dict[str, Any], count: int, tmp_path: Path) -> None:
    run, cases = planned(tmp_path / "run", min_free_disk_gb="900000", **options)

    assert len(list(check_disk(run, cases))) == count
