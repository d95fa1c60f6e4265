"""The plan and results of a pack, read from files in memory: missing, malformed, or different from what is derived."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from invarlock.packer.format import layout
from invarlock.packer.format.limits import MAX_JSON_VALUES
from invarlock.packer.verify.plan import read_plan
from invarlock.packer.verify.presets import read_presets
from invarlock.packer.verify.reports import Findings, examine_reports
from invarlock.packer.verify.results import check_results, derive_results, derive_verdict
from invarlock.packer.verify.shared_values import SharedValues
from memory_files import MemoryFiles
from packs import BASELINE, FAULT, MODEL, REPORT, STRESS, TIME, VERDICT, pack_files

from invarlock.jsonio import dump_json
from invarlock.problems import Code
from invarlock.reports.derivation import compose, strip
from invarlock.reports.repeats import repeats_document

Files = dict[str, bytes]


@pytest.fixture
def files(real_run: Any) -> Files:
    """The files of the real pack, by path."""
    return pack_files(real_run.pack)


def changed(files: Files, path: str, change: Callable[[Any], object]) -> MemoryFiles:
    document = json.loads(files[path])
    change(document)
    return MemoryFiles({**files, path: dump_json(document)})


def add(document: Any) -> None:
    """Add something to a document."""
    if isinstance(document, list):
        document.append({})
    else:
        document["more"] = 1


def without(files: Files, *paths: str) -> MemoryFiles:
    return MemoryFiles({path: data for path, data in files.items() if path not in paths})


def test_a_plan_is_the_cases_with_their_outcomes_and_tuned_parameters(files: Files) -> None:
    found = read_plan(MemoryFiles(files))

    assert sorted(found.plan.cases) == sorted([REPORT, STRESS, FAULT])
    assert found.problems == ()
    assert {outcome["outcome"] for outcome in found.outcomes or ()} == {"passed"}
    assert found.plan.tuned is not None
    assert found.scenarios == json.loads(files[layout.SCENARIOS])


def test_missing_parts_of_a_plan_are_not_invented(files: Files) -> None:
    assert read_plan(without(files, layout.SCENARIOS)) == read_plan(MemoryFiles({}))
    assert read_plan(without(files, layout.SCENARIOS)).scenarios is None
    assert read_plan(without(files, layout.PYTEST_REPORT)).outcomes is None
    assert read_plan(without(files, layout.TUNED_PARAMS)).plan.tuned is None
    assert read_plan(without(files, layout.TUNED_PARAMS)).problems == ()


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        (layout.SCENARIOS, lambda plan: plan.update(scenarios={}), "scenarios"),
        (layout.SCENARIOS, lambda plan: plan.update(models=1), ""),
        (layout.SCENARIOS, lambda plan: plan.pop("selection"), ""),
        (layout.TUNED_PARAMS, lambda tuned: tuned.update(models=[]), "models"),
        (layout.PYTEST_REPORT, lambda said: said.update(tests=[{}]), ""),
    ],
)
def test_a_malformed_document_of_a_plan_is_a_problem(
    path: str, change: Callable[[Any], object], field: str, files: Files
) -> None:
    found = read_plan(changed(files, path, change))

    assert found.problems
    assert {(problem.where, problem.code.exit_code) for problem in found.problems} == {(path, 7)}
    assert any(field in problem.field for problem in found.problems)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda said: said.update(exitcode=1), ["exitcode"]),
        (lambda said: said.update(exitcode=2), []),
        (lambda said: said["summary"].update(collected=70), ["summary"]),
        (lambda said: said["summary"].pop("collected"), []),
        (lambda said: said["summary"].update(passed=2), ["summary.passed"]),
        (lambda said: said["tests"][0].update(outcome="failed"), ["exitcode", "summary.failed", "summary.passed"]),
        (lambda said: (said["tests"][0].update(outcome="skipped"), said["summary"].update(passed=2, skipped=1)), []),
        (lambda said: (said["tests"][0].update(outcome="failed"), said.update(exitcode=1),
                       said["summary"].update(passed=2, failed=1)), []),
        (lambda said: ([test.update(outcome="failed") for test in said["tests"]], said.update(exitcode=1),
                       said["summary"].pop("passed"), said["summary"].update(failed=3)), []),
        (lambda said: said.update(exitcode=-1), []),
    ],
)  # fmt: skip
def test_the_outcomes_of_pytest_must_be_consistent(
    change: Callable[[Any], object], fields: list[str], files: Files
) -> None:
    found = read_plan(changed(files, layout.PYTEST_REPORT, change))

    assert sorted(problem.field for problem in found.problems) == fields
    assert {problem.code for problem in found.problems} <= {Code.PYTEST_REPORT_CONTRADICTS_ITSELF}
    assert found.outcomes is not None


def test_a_preset_that_is_malformed_is_a_problem_and_the_others_are_read(files: Files) -> None:
    path = f"metadata/presets/calibrated_preset_{MODEL}.json"
    assert path in files
    whole, wrong = read_presets(MemoryFiles(files))
    assert (len(whole), wrong) == (1, [])

    found, wrong = read_presets(changed(files, path, lambda preset: preset.pop("limits")))

    assert len(found) == 0
    assert path in {problem.where for problem in wrong}


def results_of(files: Files) -> Findings:
    found = examine_reports(MemoryFiles(files))
    assert found.problems == ()
    return found


def test_the_results_that_follow_are_those_in_the_pack(files: Files) -> None:
    found = results_of(files)

    checked = check_results(MemoryFiles(files), found)

    assert (checked.problems, checked.warnings) == ((), ())
    assert checked.verdict is not None
    assert checked.verdict == json.loads(files[VERDICT])
    derived = derive_results(found, checked.verdict)
    assert {path: json.loads(files[path]) for path in derived} == json.loads(dump_json(derived))
    assert {REPORT.replace("evaluation.report", "verify"), layout.SECONDS_SUMMARY, layout.ARTIFACT_SUMMARY} <= set(
        derived
    )


def test_equal_settings_of_reports_share_their_memory_if_their_texts_are_equal() -> None:
    shared, first = SharedValues(), {"tier": "balanced", "windows": 1}

    assert shared.one(first) is first
    assert shared.one({"tier": "balanced", "windows": 1}) is first
    for other in ({"tier": "balanced", "windows": 1.0}, {"tier": "balanced", "windows": True}, {"tier": "balanced"}):
        assert shared.one(other) is other


def test_from_a_verdict_of_too_many_values_nothing_is_read(files: Files) -> None:
    found = results_of(files)
    many = changed(files, VERDICT, lambda verdict: verdict.update(not_bundled=[0] * (MAX_JSON_VALUES + 1)))

    checked = check_results(many, found)

    assert checked.verdict is None
    assert [problem.where for problem in checked.problems] == [VERDICT]
    assert f"values, more than the limit of {MAX_JSON_VALUES}" in checked.problems[0].message


def test_each_result_is_compared_and_needed(files: Files) -> None:
    found = results_of(files)
    derived = sorted(derive_results(found, derive_verdict(found, TIME, frozenset())))

    for path in derived:
        missing = [(one.code, one.where) for one in check_results(without(files, path), found).problems]
        # older packs have no badge
        assert missing == ([] if path == layout.BADGE else [(Code.FILE_ABSENT, path)])
        other = changed(files, path, add)
        assert [(one.code, one.where) for one in check_results(other, found).problems] == [
            (Code.RESULT_DOES_NOT_FOLLOW, path)
        ]
    text = MemoryFiles({**files, layout.VERDICT_TEXT: files[layout.VERDICT_TEXT] + b"\n"})
    assert [problem.where for problem in check_results(text, found).problems] == [layout.VERDICT_TEXT]


@pytest.mark.parametrize("name", ["repeats.json", "notes.json", "activations.json"])
def test_a_file_among_reports_that_follows_from_none_is_a_problem(name: str, files: Files) -> None:
    path = layout.sibling(REPORT, name)

    found = check_results(MemoryFiles({**files, path: b"{}"}), results_of(files))

    assert [(problem.code, problem.where) for problem in found.problems] == [(Code.FILE_DOES_NOT_FOLLOW, path)]


def test_the_repeats_of_a_report_belong_to_it(files: Files) -> None:
    path, report = layout.sibling(REPORT, layout.REPEATS), json.loads(files[REPORT])
    repeated = {**files, path: dump_json(repeats_document(report, [report]))}
    found = results_of(repeated)
    derived = derive_results(found, derive_verdict(found, TIME, frozenset()))
    written = {one: dump_json(document) for one, document in derived.items() if one in files or "repeats" in one}

    checked = check_results(MemoryFiles({**repeated, **written}), found)

    assert checked.problems == ()
    assert json.loads(written[layout.REPEATS_SUMMARY])["cases"].keys() == {REPORT}


def test_each_report_is_compared_with_the_baseline_of_its_own_model(files: Files) -> None:
    other = {path.replace(MODEL, "a__model"): data for path, data in files.items() if path.startswith(("rep", "base"))}

    found = examine_reports(MemoryFiles({**files, **other}))

    assert len(found.baselines) == 2
    assert Code.BASELINE_MISSING not in {problem.code for problem in found.problems}


@pytest.mark.parametrize("change", [lambda document: document.pop("draws"), lambda document: document.update(draws=7)])
def test_a_malformed_report_of_a_baseline_is_a_problem_of_its_own(
    change: Callable[[Any], object], files: Files
) -> None:
    found = examine_reports(changed(files, BASELINE, change))

    of_baseline = {problem.code for problem in found.problems if problem.where == BASELINE}
    # no report can be compared with a baseline
    assert of_baseline == {Code.REPORT_MALFORMED, Code.BASELINE_MISSING}
    assert found.baselines == {}


@pytest.mark.parametrize(
    "change", [lambda document: document.pop("runtime"), lambda document: document.update(config=7)]
)
def test_a_malformed_runtime_manifest_is_a_problem_of_its_own(change: Callable[[Any], object], files: Files) -> None:
    path = layout.sibling(REPORT, layout.RUNTIME_MANIFEST)

    found = examine_reports(changed(files, path, change))

    assert {(problem.code, problem.where) for problem in found.problems} == {(Code.FILE_MALFORMED, path)}


def test_a_preset_is_compared_with_the_baseline_and_not_with_what_a_report_says_of_it(files: Files) -> None:
    raw = strip(json.loads(files[STRESS]))
    raw["baseline_ref"]["digest"] = f"sha256:{'0' * 64}"

    found = examine_reports(MemoryFiles({**files, STRESS: dump_json(compose(raw))}))

    about = {(problem.code, problem.field) for problem in found.problems if problem.where == STRESS}
    assert any(code is not Code.PRESET_DIFFERS and "digest" in field for code, field in about), about
    assert Code.PRESET_DIFFERS not in {code for code, _ in about}


def test_the_first_of_many_differences_are_listed_with_the_number_of_the_others(files: Files) -> None:
    found = results_of(files)

    def differing(number: int) -> list[str]:
        def change(verdict: Any) -> None:
            verdict["counts"].update({f"x{count:03}": count for count in range(number)})

        return [str(problem) for problem in check_results(changed(files, VERDICT, change), found).problems]

    assert len(differing(5)) == 5
    for number in (6, 50):
        assert len(differing(number)) == 6
        assert differing(number)[-1].endswith("and more differences")


def test_a_pack_without_reports_and_verdict_has_results_of_nothing(files: Files) -> None:
    bare = {path: data for path, data in files.items() if not path.startswith(("reports/", "results/", "baselines/"))}
    bare.pop(layout.SCENARIOS)

    found = check_results(MemoryFiles(bare), examine_reports(MemoryFiles(bare)))

    assert (found.verdict, found.problems, len(found.warnings)) == (None, (), 1)
