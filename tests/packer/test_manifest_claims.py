"""The claims of a pack's manifest and metadata, derived from files in memory, with one change in each test."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from invarlock.packer.format import layout
from invarlock.packer.verify.manifest_claims import derive_manifest, derive_source, manifest_problems, metadata_problems
from invarlock.packer.verify.presets import preset_use_problems, read_presets
from invarlock.packer.verify.reports import examine_reports
from memory_files import MemoryFiles
from packs import BASELINE, MODEL, REPORT, STRESS, VERDICT, pack_files

from invarlock.jsonio import dump_json
from invarlock.problems import Code

Files = dict[str, bytes]
Change = Callable[[Any], object]
Found = list[tuple[Code, str, str]]
MANIFEST = "manifest.json"
OTHER = f"sha256:{'0' * 64}"


@pytest.fixture
def files(real_run: Any) -> Files:
    """The files of the real pack, by path."""
    return pack_files(real_run.pack)


def changed(files: Files, path: str, change: Change) -> Files:
    document = json.loads(files[path])
    change(document)
    return {**files, path: dump_json(document)}


def of_manifest(files: Files, manifest: Any = None) -> Found:
    """Return the problems with a manifest's claims."""
    there, verdict = MemoryFiles(files), json.loads(files[VERDICT])
    found = examine_reports(there)
    claims = json.loads(files[MANIFEST]) if manifest is None else manifest
    return [(one.code, one.where, one.field) for one in manifest_problems(claims, found, there, verdict)]


def of_metadata(files: Files) -> Found:
    """Return the problems with a pack's metadata."""
    there = MemoryFiles(files)
    return [(one.code, one.where, one.field) for one in metadata_problems(examine_reports(there), there)]


def test_an_honest_pack_claims_what_follows(files: Files) -> None:
    assert of_manifest(files) == []
    assert of_metadata(files) == []
    assert of_manifest(files, {}) == []


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        (lambda m: m.update(suite="full"), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "suite"),
        (lambda m: m.update(repeats=3), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "repeats"),
        (lambda m: m.update(network_mode="online"), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "network_mode"),
        (lambda m: m["verification"].update(clean_reports=2), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
         "verification.clean_reports"),
        (lambda m: m["verification"].update(failed_reports=1), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
         "verification.failed_reports"),
        (lambda m: m["subject"].update(digest=OTHER), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "subject.digest"),
        (lambda m: m["environment"].update(digest=OTHER), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "environment.digest"),
        (lambda m: m["model_licenses"].update({"embedded/mistral-tiny": "GPL"}), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
         "model_licenses.embedded/mistral-tiny"),
        (lambda m: m["invocation"]["config_source"].update(commit="0" * 40), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW,
         "invocation.config_source.commit"),
        (lambda m: m["builder"].update(version="9"), Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "invarlock_version"),
        (lambda m: m["verification"].update(report_assurance="strict"), Code.EVIDENCE_LEVEL_TOO_HIGH,
         "verification.report_assurance"),
        (lambda m: m["invocation"]["parameters"]["seq_len"].update(value=1), Code.SETTINGS_DIFFER,
         "invocation.parameters.seq_len"),
        (lambda m: m["invocation"]["parameters"].update(release_review={"value": True}), Code.REVIEW_NOT_SUPPORTED,
         "invocation.parameters.release_review"),
        (lambda m: m.pop("environment"), Code.EVIDENCE_LEVEL_TOO_HIGH, "evidence_level"),
    ],
)  # fmt: skip
def test_a_field_of_a_manifest_that_does_not_follow_is_named(
    change: Change, code: Code, field: str, files: Files
) -> None:
    assert (code, MANIFEST, field) in of_manifest(changed(files, MANIFEST, change))


def test_the_sealed_settings_are_those_of_the_manifest(files: Files) -> None:
    other = changed(files, layout.SETTINGS, lambda settings: settings["tier"].update(value="conservative"))
    more = changed(files, layout.SETTINGS, lambda settings: settings.update(more={"value": 1, "source": "option"}))

    assert of_manifest(other) == [(Code.SETTINGS_DIFFER, layout.SETTINGS, "tier.value")]
    assert of_manifest(more) == []
    assert [place[1] for place in of_manifest({**files, layout.SETTINGS: b"{"})] == [layout.SETTINGS]


def test_without_a_plan_a_manifest_claims_nothing(files: Files) -> None:
    bare = {path: data for path, data in files.items() if path not in (layout.SCENARIOS, layout.VERDICT_JSON)}
    claims = json.loads(files[MANIFEST])
    there = MemoryFiles(bare)

    named = {one.field for one in manifest_problems(claims, examine_reports(there), there, None)}

    assert {"subject", "suite", "model_list", "models", "network_mode", "determinism"} <= named
    assert {"verification.clean_reports", "verification.error_injection_reports"} <= named
    assert "verification.failed_reports" not in named


def test_each_baseline_is_with_the_reports_of_its_model(files: Files) -> None:
    found = examine_reports(MemoryFiles(files))
    for other in ("aaa__model", "zzz__model"):
        twin = {path.replace(MODEL, other): facts for path, facts in found.facts.items()}
        baselines = {path.replace(MODEL, other): facts for path, facts in found.baselines.items()}
        both = replace(found, facts={**found.facts, **twin}, baselines={**found.baselines, **baselines})
        digests = {**MemoryFiles(files).digests, BASELINE.replace(MODEL, other): "0" * 64}

        rows = {row["name"]: row for row in derive_manifest(both, digests)["verification_baselines"]}

        assert {name: set(row["report_paths"]) for name, row in rows.items()} == {
            MODEL: set(found.facts),
            other: set(twin),
        }
        assert rows[other]["digest"] == OTHER


def test_a_source_is_that_of_its_file(files: Files) -> None:
    assert derive_source(MemoryFiles({})) is None
    source = derive_source(MemoryFiles(files))
    assert source is not None
    assert source["path"] == layout.SOURCE_REPO
    assert source["commit"] == json.loads(files[layout.SOURCE_REPO])["commit"]
    assert [place[1] for place in of_manifest({**files, layout.SOURCE_REPO: b"[]"})] == [layout.SOURCE_REPO]


@pytest.mark.parametrize(
    ("path", "change", "code"),
    [
        (layout.SOURCE_REPO, lambda source: source.update(dirty="no"), None),
        (layout.ENVIRONMENT, lambda found: found.pop("libraries"), None),
        (layout.ENVIRONMENT, lambda found: found["determinism"].update(mode="strict"), Code.ENVIRONMENT_DIFFERS),
        (layout.ENVIRONMENT, lambda found: found["libraries"].update(torch="0.1"), Code.ENVIRONMENT_DIFFERS),
        (layout.ENVIRONMENT, lambda found: found["python"].update(version="2.7"), Code.ENVIRONMENT_DIFFERS),
        (layout.MODEL_REVISIONS, lambda pins: pins["models"][0].update(licence="GPL"), Code.PINS_DIFFER),
        (layout.MODEL_REVISIONS, lambda pins: pins["models"][0]["files"].pop(), Code.PINS_DIFFER),
        (layout.SCENARIOS, lambda plan: plan["selection"].update(scenario_ids=[]), Code.PLAN_CONTRADICTS_ITSELF),
        (layout.SCENARIOS, lambda plan: plan["scenarios"][0].update(contains_model_weights_in_pack=True),
         Code.WEIGHTS_NOT_DECLARED),
    ],
)  # fmt: skip
def test_metadata_that_does_not_follow_is_a_problem(path: str, change: Change, code: Code | None, files: Files) -> None:
    found = of_metadata(changed(files, path, change))

    assert found
    assert code is None or {place[0] for place in found} == {code}


def test_weights_in_a_pack_are_declared(files: Files) -> None:
    path = layout.sibling(REPORT, "model.safetensors")

    assert (Code.WEIGHTS_NOT_DECLARED, path, "") in of_metadata({**files, path: b""})


def report_problems(files: Files) -> Found:
    return [(one.code, one.where, one.field) for one in examine_reports(MemoryFiles(files)).problems]


@pytest.mark.parametrize(
    ("name", "missing", "malformed"),
    [
        (layout.EDIT_METADATA, Code.EDIT_METADATA_MISSING, Code.EDIT_METADATA_MALFORMED),
        (layout.PAGE, None, Code.PAGE_DIFFERS),
    ],
)
def test_the_accompanying_files_of_a_report_are_there_and_match_it(
    name: str, missing: Code | None, malformed: Code, files: Files
) -> None:
    path = layout.sibling(STRESS, name)
    without = {where: data for where, data in files.items() if where != path}

    assert report_problems(without) == ([] if missing is None else [(missing, path, "")])
    assert [place[:2] for place in report_problems({**files, path: b"["})] == [(malformed, path)]


def test_a_report_belongs_to_the_baseline_of_its_model(files: Files) -> None:
    assert report_problems(files) == []
    lost = {path: data for path, data in files.items() if path != BASELINE}
    assert {place[1] for place in report_problems(lost)} == {BASELINE}


def test_a_null_run_has_the_number_of_its_file(files: Files) -> None:
    path = f"metadata/presets/{MODEL}/null_run_1.json"

    _, wrong = read_presets(MemoryFiles(changed(files, path, lambda run: run.update(run=2))))

    assert (Code.PRESET_DOES_NOT_FOLLOW, path, "run") in [(one.code, one.where, one.field) for one in wrong]


def test_a_report_names_the_preset_that_judged_it(files: Files) -> None:
    presets, _ = read_presets(MemoryFiles(files))
    report, baseline = json.loads(files[REPORT]), json.loads(files[BASELINE])
    (preset,) = presets.values()

    assert list(preset_use_problems(REPORT, report, preset, baseline)) == []
    assert list(preset_use_problems(REPORT, report, preset, None)) == []
    (problem,) = preset_use_problems(REPORT, report, None, baseline)
    assert (problem.code, problem.field) == (Code.PRESET_DIFFERS, "policy_provenance.preset_sha256")
    report["policy_provenance"]["preset_sha256"] = None
    assert list(preset_use_problems(REPORT, report, None, baseline)) == []
    assert list(preset_use_problems(REPORT, report, preset, baseline)) != []
