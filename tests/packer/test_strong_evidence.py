"""The evidence statement of a pack: strict assurance, strong evidence, and the messages about both."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import PackContent, build_pack
from invarlock.packer.inspection import inspect_pack
from invarlock.packer.trust.keys import SigningKey, fingerprint
from invarlock.packer.verify.evidence import Scope, absent, covered, not_covered
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack
from packs import (
    FAULT,
    REPORT,
    STRESS,
    TIME,
    contain,
    content,
    edit_json,
    messages,
    places,
    seal,
    sign,
    strict,
)
from processes import packer

from invarlock.jsonio import dump_json
from invarlock.problems import Code
from invarlock.verdict.compiling import Planned

Reseal = Callable[[Path], None]


@pytest.fixture
def contained(run: Path, real_run: Any, tmp_path: Path) -> Path:
    """An honest pack of three reports from a container, which claims strict report assurance."""
    whole = content(run)
    inside = replace(whole, files=contain(dict(whole.files)), claimed_verdict=None, report_assurance="strict")
    return build_pack(tmp_path / "contained", inside, real_run.key, TIME).path


def test_strict_report_assurance_requires_a_container(pack: Path) -> None:
    result = strict(pack, report_assurance="strict")

    assert result.code == 7
    assert "strict report assurance requires that clean cases ran in a container" in messages(result)


def test_strict_report_assurance_requires_one_for_every_clean_report_and_inspect_shows_it(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    whole = content(run)
    for name, outside in (("all", None), ("but_a_fault", FAULT), ("but_a_stress", STRESS), ("but_a_clean_one", REPORT)):
        files = contain(dict(whole.files))
        if outside is not None:
            run_without_an_image(files, outside)
        pack = build_pack(tmp_path / name, replace(whole, files=files, claimed_verdict=None), real_run.key, TIME).path

        result = strict(pack, report_assurance="strict")

        against = ["1 of 1 clean reports not from a container"] if outside == REPORT else []
        assert inspect_pack(pack)["strict_readiness"] == {"ready": not against, "against": against}
        assert (result.code, strict(pack).code) == (7 if against else 0, 0), name
        sidecar = REPORT.replace("evaluation.report", "runtime.manifest")
        assert [problem.where for problem in result.problems] == [sidecar] * len(against)


def run_without_an_image(files: dict[str, bytes], report: str) -> None:
    """Remove the image digest from the runtime manifest of a report."""
    sidecar = report.replace("evaluation.report", "runtime.manifest")
    runtime = json.loads(files[sidecar])
    runtime["runtime"]["image_digest"] = None
    files[sidecar] = dump_json(runtime)


def test_strict_assurance_is_claimed_for_every_clean_report_and_of_at_least_one(
    contained: Path, run: Path, real_run: Any, tmp_path: Path, reseal: Reseal
) -> None:
    whole = content(run)
    claimed = (Code.EVIDENCE_LEVEL_TOO_HIGH, "manifest.json", "verification.report_assurance")
    assert strict(contained).code == 0

    for number, (path, code) in enumerate(((REPORT, 7), (FAULT, 0), (STRESS, 0))):
        files = contain(dict(whole.files))
        run_without_an_image(files, path)
        folder = tmp_path / f"without_{number}"
        pack = build_pack(folder, replace(whole, files=files, claimed_verdict=None), real_run.key, TIME).path
        edit_json(pack / "manifest.json", lambda manifest: manifest["verification"].update(report_assurance="strict"))
        reseal(pack)
        assert (strict(pack).code, claimed in places(strict(pack))) == (code, code == 7)

    faults = {name: data for name, data in contain(dict(whole.files)).items() if "noop_control" not in name}
    faults.pop("metadata/pytest_report.json")
    pack = build_pack(tmp_path / "faults", replace(whole, files=faults, claimed_verdict=None), real_run.key, TIME).path
    assert strict(pack).code == 0
    edit_json(pack / "manifest.json", lambda manifest: manifest["verification"].update(report_assurance="strict"))
    reseal(pack)
    assert (strict(pack).code, claimed in places(strict(pack))) == (7, True)


@pytest.fixture
def complete(run: Path) -> PackContent:
    """The content of a pack of three reports from a container, with complete provenance."""
    whole = content(run)
    origins = {f"metadata/{name}.json": run / "state" / f"{name}.json" for name in ("model_revisions", "scenarios")}
    files = {**contain(dict(whole.files)), **{path: source.read_bytes() for path, source in origins.items()}}
    return replace(whole, files=files, claimed_verdict=None, report_assurance="strict")


def strongly(pack: Path, key: SigningKey) -> VerifyResult:
    """Verify a pack as strong evidence: strictly, with strict report assurance and the expected signer."""
    return strict(pack, report_assurance="strict", expected_fingerprint=fingerprint(key.public))


def test_strong_evidence_lacks_nothing(complete: PackContent, real_run: Any, tmp_path: Path) -> None:
    built = build_pack(tmp_path / "strong", complete, real_run.key, TIME)
    pack, signer = built.path, fingerprint(real_run.key.public)

    strong = strongly(pack, real_run.key)

    assert (strong.code, strong.missing_for_strong, strong.strong) == (0, (), True), messages(strong)
    assert strong.evidence == [
        "covered: 1 edit that must pass, 1 that must fail, 1 fault that must be detected, on 1 model",
        "not covered: a second model",
        "strong evidence: yes",
    ]
    assert built.evidence[2].startswith("strong evidence: yes, for a receiver who pins the signer")
    for weaker, missing in (
        (strict(pack, report_assurance="strict"), "a pinned signer"),
        (strict(pack, expected_fingerprint=signer), "strict report assurance"),
        (verify_pack(pack, VerifyOptions(report_assurance="strict", expected_fingerprint=signer)), "strict checks"),
    ):
        assert (weaker.code, weaker.strong, len(weaker.missing_for_strong)) == (0, False, 1)
        assert weaker.missing_for_strong[0].startswith(missing)


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("metadata/model_revisions.json", ["pins of the models (metadata/model_revisions.json)"]),
        ("metadata/pytest_report.json", ["pytest's account of the cases (metadata/pytest_report.json)"]),
        (
            "metadata/environment.json",
            ["the environment (metadata/environment.json)", "in the manifest: environment"],
        ),
        (
            "metadata/source_repo.json",
            ["the source (metadata/source_repo.json)", "in the manifest: invocation.config_source"],
        ),
    ],
)
def test_strong_evidence_names_each_missing_file(
    complete: PackContent, real_run: Any, tmp_path: Path, path: str, missing: list[str]
) -> None:
    less = replace(complete, files={name: data for name, data in complete.files.items() if name != path})
    built = build_pack(tmp_path / "less", less, real_run.key, TIME)

    result = strongly(built.path, real_run.key)

    assert (result.code, result.strong, list(result.missing_for_strong)) == (0, False, missing)
    assert built.evidence[2] == f"strong evidence: no, missing: {'; '.join(missing)}"


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda m: m.pop("models"), "in the manifest: models"),
        (lambda m: m.pop("verification_baselines"), "in the manifest: verification_baselines"),
        (lambda m: m["verification"].pop("failed_reports"), "in the manifest: verification.failed_reports"),
        (lambda m: m["subject"].pop("digest"), "in the manifest: subject.digest"),
        (lambda m: m.pop("invocation"), "in the manifest: invocation.config_source"),
        (
            lambda m: [m.pop(name) for name in ("generated_at", "suite", "invarlock_version")],
            "in the manifest: generated_at, invarlock_version, suite",
        ),
    ],
)
def test_strong_evidence_names_each_missing_block_of_the_manifest(
    complete: PackContent, real_run: Any, tmp_path: Path, change: Callable[[Any], object], missing: str
) -> None:
    pack = build_pack(tmp_path / "pack", complete, real_run.key, TIME).path
    (pack / "README.md").unlink()
    (pack / "index.html").unlink()
    seal(pack, real_run.key)
    manifest = {**json.loads((pack / "manifest.json").read_bytes()), "evidence_level": "low"}
    change(manifest)
    sign(pack, manifest, real_run.key)

    result = strongly(pack, real_run.key)

    assert (result.code, result.strong, result.missing_for_strong) == (0, False, (missing,)), messages(result)


def test_strong_evidence_lacks_tuned_parameters_where_a_clean_edit_used_them() -> None:
    def planned(spec: str) -> dict[str, Planned]:
        case = {"model": "a/b", "scenario": "s", "run": 1}
        return {"p": Planned("p", case, {"generation": {"kind": "edit", "edit_spec": spec}})}

    def named(spec: str, *files: str) -> bool:
        return any("tuned parameters" in line for line in absent({}, files, planned(spec)))

    assert named("quant_rtn:clean:ffn")
    assert not named("quant_rtn:clean:ffn", "metadata/tuned_edit_params.json")
    assert not named("quant_rtn:8:128:all")


def test_readme_verify_inspect_and_build_print_the_same_evidence_statement(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    files.pop("metadata/pytest_report.json")
    scenarios = json.loads(files["metadata/scenarios.json"])
    scenarios["selection"]["cases"] = [
        case for case in scenarios["selection"]["cases"] if case["scenario"] == "noop_control"
    ]
    scenarios["selection"]["scenario_ids"] = ["noop_control"]
    scenarios["scenarios"] = [row for row in scenarios["scenarios"] if row["id"] == "noop_control"]
    files = {path: data for path, data in files.items() if "prune_50pct_stress" not in path}
    files["metadata/scenarios.json"] = dump_json(scenarios)

    built = build_pack(tmp_path / "noop", replace(whole, files=files, claimed_verdict=None), None, TIME)
    verified = packer("verify", built.path, "--allow-unsigned").stdout
    inspected = packer("inspect", built.path).stdout
    readme = (built.path / "README.md").read_text()

    covered = "covered: 1 edit that must pass, on 1 model"
    lacking = (
        "whether a destructive edit fails; whether a fault is detected; a second model; a container (1 of 1 reports"
    )
    for text in (verified, inspected, readme, "\n".join(built.evidence)):
        assert covered in text.replace("Covered", "covered")
        assert lacking in text
        assert "trong evidence: no, missing: " in text
        assert "evidence level" not in text.lower()
    assert "who made it: the pack is not signed" in verified
    # machine-readable documents keep the format's own scale
    assert json.loads((built.path / "manifest.json").read_bytes())["evidence_level"] == "high"


def test_a_high_level_is_that_of_a_complete_plan_whose_verdict_is_pass(
    run: Path, real_run: Any, tmp_path: Path, reseal: Reseal
) -> None:
    whole = content(run)
    files = {path: data for path, data in whole.files.items() if "nan_injection" not in path}
    files.pop("metadata/pytest_report.json")

    built = build_pack(tmp_path / "less", replace(whole, files=files, claimed_verdict=None), real_run.key, TIME)

    assert (built.verdict, built.evidence_level, strict(built.path).code) == ("FAIL", "medium", 0)
    edit_json(built.path / "manifest.json", lambda manifest: manifest.update(evidence_level="high"))
    reseal(built.path)
    assert places(strict(built.path)) == [(Code.EVIDENCE_LEVEL_TOO_HIGH, "manifest.json", "evidence_level")]


@pytest.mark.parametrize(("models", "words"), [(1, "1 model"), (2, "2 models")])
def test_evidence_on_two_models_says_so_and_lacks_no_second(models: int, words: str) -> None:
    paths = frozenset({"one", "other"})
    scope = Scope(dict.fromkeys(paths, "must_pass"), models, paths, paths)

    assert covered(scope) == f"2 edits that must pass, on {words}"
    assert ("a second model" in not_covered(scope)) == (models == 1)
