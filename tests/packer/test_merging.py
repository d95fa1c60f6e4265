"""Merging a small run that was divided into two shards afterwards, and which shards can and cannot be merged."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.runs.merging import (
    MergedRun,
    merge_runs,
    merged_environment,
    merged_outcomes,
    merged_pins,
    merged_settings,
)
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.packer.runs.shards import check_belonging, read_shard, shared_files
from invarlock.packer.trust.keys import fingerprint
from packs import TIME, edit_json, strict

from invarlock.catalog.costs import ModelSize
from invarlock.catalog.shards import SCHEMA, shard_manifest
from invarlock.errors import DocumentError, InvarLockError, MissingFileError, ReportError, UsageError
from invarlock.jsonio import write_json
from invarlock.problems import Code, ExitCode
from invarlock.verdict.compiling import planned_cases

MODEL = "embedded__mistral-tiny"
SIZES = {"embedded/mistral-tiny": ModelSize(1_049_728, 2_099_456)}
NOT_OF_A_SHARD = ("models", "evidence_pack", "logs", "analysis", "final_verdict*", "*summary*", "locks")


@pytest.fixture
def shards(real_run: Any, tmp_path: Path) -> list[Path]:
    """The real run divided into two shards, as if they had been run: one with two cases, one with one."""
    whole = json.loads((real_run.directory / "state/scenarios.json").read_bytes())
    places = [tmp_path / "first", tmp_path / "second"]
    for index, place in enumerate(places, start=1):
        shutil.copytree(real_run.directory, place, ignore=shutil.ignore_patterns(*NOT_OF_A_SHARD))
        directory, part = RunDirectory(place), shard_manifest(whole, SIZES, index, 2)
        sizes = {model: asdict(size) for model, size in SIZES.items()}
        write_json(directory.shard, {"schema": SCHEMA, "index": index, "of": 2, "models": sizes, "whole": whole})
        write_json(directory.state / "scenarios.json", part)
        own = {planned.case_id for planned in planned_cases(part).values()}
        for report, planned in planned_cases(whole).items():
            if planned.case_id not in own:
                shutil.rmtree(directory.source_of(report).parent)
        edit_json(directory.state / "pytest_report.json", partial(keep_tests, own=own))
    return places


def keep_tests(said: dict[str, Any], own: set[str]) -> None:
    said["tests"] = [test for test in said["tests"] if test["nodeid"].partition("[")[2].rstrip("]") in own]
    number = len(said["tests"])
    collected = said["summary"]["collected"]
    said["summary"] = {"collected": collected, "deselected": collected - number, "passed": number, "total": number}


def merge(shards: list[Path], **options: Any) -> MergedRun:
    return merge_runs(shards, shards[0].parent / "merged", options.get("key"), TIME)


def test_a_run_that_was_divided_gives_its_verdict_and_its_reports_again(shards: list[Path], real_run: Any) -> None:
    merged = merge(shards[::-1], key=real_run.key)

    pack = real_run.pack
    assert (merged.verdict, merged.path.name, merged.pack.path) == ("PASS", "merged", merged.path / "evidence_pack")
    assert any("PASS" in line for line in merged.lines)
    found = strict(merged.pack.path, expected_fingerprint=fingerprint(real_run.key.public))
    assert (found.code, found.problems, found.verdict) == (0, (), "PASS")
    names = {str(path.relative_to(pack)) for path in pack.rglob("*")}
    assert {str(path.relative_to(merged.pack.path)) for path in merged.pack.path.rglob("*")} == names
    for path in pack.rglob("*.report.json"):
        assert (merged.pack.path / path.relative_to(pack)).read_bytes() == path.read_bytes()
    for name in ("scenarios.json", "pytest_report.json"):
        one, other = (json.loads((folder / "metadata" / name).read_bytes()) for folder in (merged.pack.path, pack))
        assert one == other
    assert not (merged.path / "state/shard.json").exists()
    assert list(merged.path.parent.glob(".*")) == []


def test_an_existing_folder_or_a_dangling_link_is_not_written_to(shards: list[Path]) -> None:
    target = shards[0].parent / "merged"
    target.symlink_to("nowhere")
    with pytest.raises(UsageError, match="already exists; choose another folder"):
        merge(shards)
    target.unlink()
    target.mkdir()
    with pytest.raises(UsageError, match="already exists; choose another folder"):
        merge(shards)

    assert list(target.iterdir()) == []


def test_a_run_that_cannot_be_made_is_refused_before_a_shard_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match=r"--output: .*merged cannot be created, .*file is not a folder") as caught:
        merge_runs([tmp_path / "missing"], tmp_path / "file/merged", None, TIME)

    assert caught.value.code is Code.OUTPUT_UNWRITABLE


def test_pages_are_made_unless_all_shards_leave_them_out(shards: list[Path], real_run: Any) -> None:
    for shard in shards:
        for page in shard.rglob("evaluation.html"):
            page.unlink()
        edit_json(
            shard / "state/settings.json",
            lambda settings: settings.update(skip_html={"value": True, "source": "option"}),
        )
    assert list(merge(shards).path.rglob("evaluation.html")) == []
    shutil.rmtree(shards[0].parent / "merged")

    edit_json(shards[0] / "state/settings.json", lambda settings: settings["skip_html"].update(value=False))

    assert len(list(merge(shards).path.glob("embedded*/**/evaluation.html"))) == 3


def in_state(name: str, edit: Callable[[Any], object], number: int = 1) -> Callable[[list[Path]], None]:
    return lambda shards: edit_json(shards[number] / "state" / name, edit)


def write_state(name: str, data: bytes) -> Callable[[list[Path]], object]:
    return lambda shards: (shards[1] / "state" / name).write_bytes(data)


def in_a_report(edit: Callable[[Any], object]) -> Callable[[list[Path]], None]:
    return lambda shards: edit_json(next(shards[1].glob("*/reports/**/evaluation.report.json")), edit)


def lose(pattern: str) -> Callable[[list[Path]], None]:
    return lambda shards: next(shards[1].glob(pattern)).unlink()


def another_division(document: Any) -> None:
    document["of"] = 3


def another_case(document: Any) -> None:
    document["tests"].append({**document["tests"][0], "nodeid": "t.py::t[mistral-tiny-noop_control-run1]"})
    document["tests"].append({**document["tests"][0], "nodeid": "t.py::t[mistral-tiny-prune_50pct_stress-run1]"})
    document["tests"].append({**document["tests"][0], "nodeid": "t.py::t[mistral-tiny-nan_injection-run1]"})


@pytest.mark.parametrize(
    ("harm", "code", "words"),
    [
        (lambda shards: shards.pop(), ExitCode.MISSING, "shards 2/2 are missing"),
        (lambda shards: shards.append(shards[0]), ExitCode.USAGE, "same shard"),
        (lambda shards: (shards[1] / "state/shard.json").unlink(), ExitCode.MISSING, "--shard"),
        (lambda shards: (shards[1] / "state/settings.json").unlink(), ExitCode.MISSING, "--shard 2/2 --resume"),
        (in_state("pytest_report.json", lambda said: said["tests"].pop()), ExitCode.MISSING, "mistral-tiny-"),
        (in_state("pytest_report.json", another_case), ExitCode.INTEGRITY, "of this shard"),
        (in_state("pytest_report.json", another_case, 0), ExitCode.INTEGRITY, "-run1 is not a case of this shard"),
        (write_state("settings.json", b"[]"), ExitCode.USAGE, "settings.json: not an object"),
        (write_state("model_revisions.json", b"7"), ExitCode.USAGE, "model_revisions.json: not an object"),
        (in_state("scenarios.json", lambda plan: plan["selection"].update(scenario_ids=[])), ExitCode.INTEGRITY,
         "shard.json: selection.scenario_ids"),
        (in_state("shard.json", lambda shard: shard["models"].clear()), ExitCode.INTEGRITY,
         "shard.json: models: the size of embedded/mistral-tiny is missing"),
        (in_state("shard.json", lambda shard: shard["models"][MODEL.replace("__", "/")].update(parameters=7)),
         ExitCode.USAGE, "sizes of models: embedded/mistral-tiny.parameters 7, not 1049728"),
        (in_state("shard.json", lambda shard: shard["models"][MODEL.replace("__", "/")].update(parameters=-7)),
         ExitCode.USAGE, "state/shard.json: does not match the shard format: at /models/"),
        (in_state("shard.json", lambda shard: shard["whole"]["scenarios"].pop()), ExitCode.USAGE,
         "which is not in the manifest"),
        (in_state("settings.json", lambda rows: rows["tier"].update(value="conservative")), ExitCode.USAGE,
         "settings: tier"),
        (in_state("settings.json", lambda rows: rows.update(tier="balanced")), ExitCode.USAGE, "without a value"),
        (in_state("model_revisions.json", lambda pins: pins.update(models={})), ExitCode.USAGE, "not a list of pins"),
        (in_state("model_revisions.json", lambda pins: pins["models"][0].update(revision="other")), ExitCode.USAGE,
         "pins: models.embedded/mistral-tiny.revision"),
        (in_state("tuned_edit_params.json", lambda tuned: tuned.update(more=1)), ExitCode.USAGE, "tuned parameters"),
        (in_state("environment.json", lambda found: found["libraries"].update(torch="0.1")), ExitCode.USAGE,
         "environment: libraries.torch '0.1'"),
        (in_state("environment.json", lambda found: found.update(more=1)), ExitCode.USAGE,
         "state/environment.json: does not match"),
        (in_state("source_repo.json", lambda source: source.update(more=1)), ExitCode.USAGE,
         "state/source_repo.json: does not match"),
        (in_state("shard.json", lambda shard: shard["whole"].update(more=1)), ExitCode.USAGE,
         "state/shard.json: whole: does not match"),
        (in_state("source_repo.json", lambda source: source.update(commit="0" * 40)), ExitCode.USAGE,
         "source repository: commit"),
        (lose("*/reports/**/evaluation.report.json"), ExitCode.MISSING, "evaluation.report.json: missing"),
        (lose("*/reports/**/runtime.manifest.json"), ExitCode.REPORT, "runtime.manifest.json"),
        (in_a_report(lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5)), ExitCode.REPORT,
         "shard 2/2"),
    ],
)  # fmt: skip
def test_parts_of_different_runs_are_refused_and_leave_nothing(
    harm: Callable[[list[Path]], None], code: ExitCode, words: str, shards: list[Path]
) -> None:
    harm(shards)
    before = set(shards[0].parent.iterdir())

    with pytest.raises(InvarLockError) as caught:
        merge(shards)

    assert (caught.value.exit_code, words in str(caught.value)) == (code, True), str(caught.value)
    assert set(shards[0].parent.iterdir()) == before


def test_a_baseline_is_read_from_a_shard_that_has_it_and_needed_from_one(shards: list[Path]) -> None:
    lose(f"{MODEL}/baseline/evaluation.report.json")(shards)
    assert merge(shards).verdict == "PASS"
    shutil.rmtree(shards[0].parent / "merged")

    (shards[0] / MODEL / "baseline/evaluation.report.json").unlink()

    with pytest.raises(InvarLockError, match="baseline") as caught:
        merge(shards)
    assert caught.value.exit_code == ExitCode.REPORT


def test_a_report_that_does_not_verify_is_named_with_its_shard_and_its_problems(shards: list[Path]) -> None:
    in_a_report(lambda report: report["primary_metric"].update(ratio_vs_baseline=0.5))(shards)

    with pytest.raises(ReportError, match=r"second \(shard 2/2\): mistral-tiny-") as caught:
        merge(shards)

    assert caught.value.problems
    assert {problem.code.exit_code for problem in caught.value.problems} == {ExitCode.REPORT}


def test_parts_of_different_divisions_are_not_merged(shards: list[Path]) -> None:
    first, second = map(read_shard, shards)
    object.__setattr__(second, "of", 3)

    with pytest.raises(UsageError, match="different") as caught:
        check_belonging([first, second])
    assert caught.value.code is Code.SHARDS_DIFFER


def test_what_shards_measured_alike_is_the_same_in_all_but_seconds(shards: list[Path]) -> None:
    edit_json(shards[1] / MODEL / "baseline/evaluate_timing.json", lambda timing: timing.update(more=1))
    (shards[1] / MODEL / "baseline/evaluation.report.json.stale").write_text("")
    (shards[1] / MODEL / "baseline/.half-written").write_text("")

    found = shared_files([read_shard(path) for path in shards])

    baseline = f"{MODEL}/baseline/evaluation.report.json"
    assert found[baseline] == shards[0] / baseline
    assert found.keys() >= {f"presets/calibrated_preset_{MODEL}.json", f"presets/calibrated_preset_{MODEL}.yaml"}
    assert any(where.startswith(f"presets/{MODEL}/") for where in found)
    assert not any(where.endswith((".stale", "timing.json", "half-written")) for where in found)


def test_a_model_without_a_baseline_does_not_hide_those_behind_it(shards: list[Path]) -> None:
    shard = read_shard(shards[0])
    plan = copy.deepcopy(shard.state["scenarios.json"])
    plan["selection"]["cases"].append({**plan["selection"]["cases"][0], "model": "embedded/another"})

    found = shared_files([replace(shard, state={**shard.state, "scenarios.json": plan})])

    assert found == shared_files([shard])
    assert f"{MODEL}/baseline/evaluation.report.json" in found


@pytest.mark.parametrize(
    "where", [f"{MODEL}/baseline/evaluation.report.json", f"presets/calibrated_preset_{MODEL}.json"]
)
def test_what_shards_measured_differently_is_named(where: str, shards: list[Path]) -> None:
    edit_json(shards[1] / where, lambda document: document.update(more=1))

    with pytest.raises(UsageError, match=rf"measured {where} differently: more 1, not ") as caught:
        shared_files([read_shard(path) for path in shards])

    assert "second (shard 2/2) and " in str(caught.value)
    (shards[1] / where).write_text("no JSON")
    with pytest.raises(UsageError, match="differently"):
        shared_files([read_shard(path) for path in shards])


def test_a_link_in_a_shard_is_refused(shards: list[Path]) -> None:
    (shards[0] / "presets/more.json").symlink_to("calibrated_preset.json")

    with pytest.raises(InvarLockError, match=r"more\.json: ") as caught:
        read_shard(shards[0])

    assert [problem.code for problem in caught.value.problems] == [Code.NOT_A_REGULAR_FILE]


def test_settings_that_all_shards_agree_on_are_those_of_the_run() -> None:
    one = {"tier": {"value": "balanced", "source": "option"}, "shard": {"value": "1/2", "source": "option"},
           "only": {"value": 1, "source": "option"}}  # fmt: skip
    other = {"tier": {"value": "balanced", "source": "option"}, "shard": {"value": "2/2", "source": "option"}}

    merged = merged_settings([one, other])

    assert merged == {
        "tier": {"value": "balanced", "source": "option"},
        "shard": {"value": None, "source": "default"},
    }
    assert merged_settings([{**one, "shard": other["shard"]}, {**one, "shard": other["shard"]}])["shard"] == {
        "value": None,
        "source": "default",
    }


def test_pins_are_those_of_all_shards_each_once_with_the_earliest_time() -> None:
    early, late = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    one = {"models": [{"model_id": "b", "resolved_at": late}, {"model_id": "d", "resolved_at": early}], "datasets": []}
    other = {
        "models": [{"model_id": "b", "resolved_at": early}, {"model_id": "a", "resolved_at": None}],
        "datasets": [{"dataset_id": "c", "resolved_at": late}],
    }
    third = {"models": [{"model_id": "d", "resolved_at": late}]}

    merged: Any = merged_pins([one, other, third])
    same: Any = merged_pins([third, third])
    assert merged == {
        "models": [
            {"model_id": "a", "resolved_at": None},
            {"model_id": "b", "resolved_at": early},
            {"model_id": "d", "resolved_at": early},
        ],
        "datasets": [{"dataset_id": "c", "resolved_at": late}],
    }
    assert same == third


def outcomes(*names: str, code: int = 0, outcome: str = "passed", **summary: int) -> dict[str, Any]:
    tests = [{"nodeid": name, "outcome": outcome} for name in names]
    return {"exitcode": code, "summary": {**summary, "total": len(tests)}, "tests": tests}


def test_the_outcomes_of_all_shards_are_as_of_one_session() -> None:
    one = outcomes("c", "a", collected=9, deselected=7)
    other = outcomes("b", code=1, outcome="failed", collected=9, deselected=8)

    merged = merged_outcomes([one, other])

    assert merged["summary"] == {"collected": 9, "deselected": 6, "passed": 2, "failed": 1, "total": 3}
    assert [test["nodeid"] for test in merged["tests"]] == ["a", "b", "c"]
    assert merged["exitcode"] == 1


def test_the_number_of_deselected_cases_is_given_only_where_the_shards_agree() -> None:
    with_workers = outcomes("b", collected=1)
    assert merged_outcomes([outcomes("a", collected=9, deselected=8), with_workers])["summary"] == {
        "collected": 9, "deselected": 7, "passed": 2, "total": 2,
    }  # fmt: skip

    for others in ([outcomes("b", collected=8, deselected=7)], []):
        documents = [outcomes("a", collected=9, deselected=8) if others else with_workers, *others]
        assert merged_outcomes(documents)["summary"] == {"passed": len(documents), "total": len(documents)}


def test_the_environment_lists_every_gpu_and_each_value_once(real_run: Any) -> None:
    one = json.loads((real_run.directory / "state/environment.json").read_bytes())
    keys = list(one["platform"])
    other = json.loads(json.dumps(one))
    other["platform"][keys[0]] = "aaa"

    merged: Any = merged_environment([one, other, one])

    assert merged["platform"][keys[0]] == ", ".join(sorted({str(one["platform"][keys[0]]), "aaa"}))
    assert {key: merged["platform"][key] for key in keys[1:]} == {key: one["platform"][key] for key in keys[1:]}
    assert merged["graphics"]["gpus"] == one["graphics"]["gpus"] * 3
    assert merged["libraries"] == one["libraries"]
    with pytest.raises(DocumentError):
        merged_environment([{**one, "libraries": 1}])


def test_the_pack_of_a_merged_run_has_the_time_of_its_end(shards: list[Path]) -> None:
    merged = merge(shards)

    document = json.loads((merged.path / "reports/final_verdict.json").read_bytes())
    assert document["timestamp"] == TIME
    assert datetime.fromisoformat(TIME) < datetime.now(UTC)
    with pytest.raises(MissingFileError):
        read_shard(merged.path)
