"""The presets of a pack, made from null runs in memory: any value that is not derived from them is a problem."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from invarlock.packer.verify.presets import preset_use_problems, read_presets
from memory_files import MemoryFiles
from nulls import null_run

from invarlock.jsonio import dump_json
from invarlock.problems import Code, Problem
from invarlock.reports.preset_files import render_yaml
from invarlock.reports.presets import NullRun, Preset, derive_preset

FOLDER = "metadata/presets/"
PRESET = f"{FOLDER}calibrated_preset_a__model.json"
YAML = f"{FOLDER}calibrated_preset_a__model.yaml"
REPORT = "reports/a__model/noop_control/run_1/evaluation.report.json"
Files = dict[str, bytes]


def null_run_path(run: int) -> str:
    return f"{FOLDER}a__model/null_run_{run}.json"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def files() -> Files:
    """The files of one preset in a pack, by path: its JSON, the same document as YAML, and three null runs."""
    runs = [null_run(number) for number in (1, 2, 3)]
    data = {null_run_path(run.run): dump_json(run.document) for run in runs}
    document = derive_preset([NullRun(run.document, sha256(data[null_run_path(run.run)])) for run in runs], "balanced")
    return {**data, PRESET: dump_json(document), YAML: render_yaml(document)}


def changed(files: Files, path: str, change: Callable[[Any], object]) -> MemoryFiles:
    """Return the files with one document changed."""
    document = json.loads(files[path])
    change(document)
    return MemoryFiles({**files, path: dump_json(document)})


def places(problems: list[Problem]) -> list[tuple[Code, str, str]]:
    return [(problem.code, problem.where, problem.field) for problem in problems]


def test_a_preset_that_follows_from_its_null_runs_is_read_with_the_digest_of_its_file(files: Files) -> None:
    found, problems = read_presets(MemoryFiles(files))

    assert found == {"a__model": Preset(json.loads(files[PRESET]), sha256(files[PRESET]))}
    assert problems == []


@pytest.mark.parametrize("path", [YAML, null_run_path(1), null_run_path(3)])
def test_a_preset_without_one_of_its_files_is_no_preset(path: str, files: Files) -> None:
    del files[path]

    found, problems = read_presets(MemoryFiles(files))

    assert found == {}
    assert [problem.where for problem in problems] == [path]
    assert {problem.code.exit_code for problem in problems} == {7}


@pytest.mark.parametrize(
    ("path", "change", "place"),
    [
        (PRESET, lambda preset: preset.update(schema="another"), (Code.FILE_MALFORMED, PRESET, "schema")),
        (PRESET, lambda preset: preset["null_runs"][0].update(run=0),
         (Code.FILE_MALFORMED, PRESET, "null_runs[0].run")),
        (PRESET, lambda preset: preset.update(model_id="another"), (Code.MODEL_DIFFERS, PRESET, "model_id")),
        (PRESET, lambda preset: preset["limits"].update({"variance.min_effect": 1.0}),
         (Code.PRESET_DOES_NOT_FOLLOW, PRESET, "limits.variance.min_effect")),
        (PRESET, lambda preset: preset["null_runs"].pop(), (Code.PRESET_DOES_NOT_FOLLOW, PRESET, "")),
        (null_run_path(2), lambda run: run.update(run=1), (Code.PRESET_DOES_NOT_FOLLOW, null_run_path(2), "run")),
        (null_run_path(2), lambda run: run.update(seeds={}), (Code.PRESET_DOES_NOT_FOLLOW, null_run_path(2),
                                                            "seeds")),
        (null_run_path(2), lambda run: run["changes"][0]["logloss"].update(final=[2.001] * 4),
         (Code.PRESET_DOES_NOT_FOLLOW, PRESET, "null_runs")),
    ],
)  # fmt: skip
def test_a_document_that_is_malformed_or_does_not_follow_is_a_problem_at_its_place(
    path: str, change: Callable[[Any], object], place: tuple[Code, str, str], files: Files
) -> None:
    found, problems = read_presets(changed(files, path, change))

    assert found == {}
    assert place in places(problems)


def test_a_preset_that_is_no_json_is_malformed_and_its_null_runs_belong_to_none(files: Files) -> None:
    found, problems = read_presets(MemoryFiles({**files, PRESET: b"{"}))

    assert found == {}
    assert places(problems) == [
        (Code.FILE_MALFORMED, PRESET, ""),
        *((Code.FILE_DOES_NOT_FOLLOW, null_run_path(run), "") for run in (1, 2, 3)),
    ]


def test_text_that_differs_from_the_document_by_one_byte_does_not_follow(files: Files) -> None:
    found, problems = read_presets(MemoryFiles({**files, YAML: files[YAML] + b"\n"}))

    assert found == {}
    assert problems == [Problem(Code.PRESET_DOES_NOT_FOLLOW, YAML, "", "does not match the JSON byte for byte")]


@pytest.mark.parametrize("folder", ["a__first", "b__model"])
def test_of_two_presets_the_one_that_follows_is_read(folder: str, files: Files) -> None:
    other = f"{FOLDER}calibrated_preset_{folder}.json"

    found, problems = read_presets(MemoryFiles({**files, other: b"[]"}))

    assert list(found) == ["a__model"]
    assert places(problems) == [(Code.FILE_MALFORMED, other, "")]


def test_a_file_next_to_presets_belongs_to_one_of_them(files: Files) -> None:
    paths = [null_run_path(4), f"{FOLDER}notes.json"]

    found, problems = read_presets(MemoryFiles({**files, **dict.fromkeys(paths, b"{}")}))

    assert list(found) == ["a__model"]
    assert problems == [Problem(Code.FILE_DOES_NOT_FOLLOW, path, "", "belongs to no preset") for path in paths]


@pytest.mark.parametrize("count", [100, 101])
def test_more_than_a_hundred_and_one_null_runs_are_not_read(count: int, files: Files) -> None:
    def claim(preset: Any) -> None:
        preset["null_runs"] = [{"run": run, "sha256": f"sha256:{'0' * 64}"} for run in range(1, count + 1)]
        preset["held_out"]["run"] = count + 1

    _, problems = read_presets(changed(files, PRESET, claim))

    too_many = Problem(Code.TOO_MANY_REPORTS, PRESET, "null_runs", f"{count + 1}, more than the limit of 101")
    assert (too_many in problems) is (count + 1 > 101)


def used_by(files: Files, **provenance: Any) -> dict[str, Any]:
    """Return the parts of a report that show that it was judged with the pack's preset."""
    document = json.loads(files[PRESET])
    return {
        "policy_provenance": {
            "preset_sha256": sha256(files[PRESET]), "preset_limits": document["limits"], "tier": "balanced",
            **provenance,
        },
        "meta": {"model_id": "a/model", "attention": "eager"},
        "baseline_ref": copy.deepcopy(document["baseline"]),
    }  # fmt: skip


def test_a_report_must_be_judged_with_the_preset_of_its_model(files: Files) -> None:
    preset = read_presets(MemoryFiles(files))[0]["a__model"]
    own = used_by(files)
    named = "policy_provenance.preset_sha256"

    assert list(preset_use_problems(REPORT, own, preset, None)) == []
    assert list(preset_use_problems(REPORT, own, preset, {"baseline": own["baseline_ref"]})) == []
    for wrong, baseline, field in (
        (used_by(files, preset_sha256=None), None, named),
        (used_by(files, preset_sha256=f"sha256:{'0' * 64}"), None, named),
        (used_by(files, preset_limits={}), None, "policy_provenance.preset_limits.variance.min_effect"),
        (own, {"baseline": {**own["baseline_ref"], "digest": f"sha256:{'0' * 64}"}}, named),
        ({**own, "meta": {"model_id": "b/model", "attention": "eager"}}, None, named),
    ):
        found = places(list(preset_use_problems(REPORT, wrong, preset, baseline)))
        assert (Code.PRESET_DIFFERS, REPORT, field) in found


def test_a_report_names_no_preset_that_the_pack_does_not_have(files: Files) -> None:
    assert list(preset_use_problems(REPORT, used_by(files, preset_sha256=None), None, None)) == []
    assert list(preset_use_problems(REPORT, used_by(files), None, None)) == [
        Problem(
            Code.PRESET_DIFFERS,
            REPORT,
            "policy_provenance.preset_sha256",
            f"{PRESET} is missing, or does not follow from its null runs",
        )
    ]
