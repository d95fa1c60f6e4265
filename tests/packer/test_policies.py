"""A receiver's policy: each requirement met and not met by a real pack, and files that are not policies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.format.documents import Manifest
from invarlock.packer.trust.keys import fingerprint
from invarlock.packer.trust.signers import parse_moment
from invarlock.packer.verify.policies import REQUIREMENTS, PackProperties, ReceiverPolicy, policy_problems, read_policy
from invarlock.packer.verify.reports import Findings
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack
from packs import SCENARIOS, TIME, content
from processes import packer

from invarlock.errors import DocumentError, MissingFileError, UsageError
from invarlock.jsonio import dump_json
from invarlock.problems import Code

CONTRACTS = Path(__file__).parents[2] / "contracts"
STRANGER = f"sha256:{'0' * 64}"
SCHEMA = "invarlock/receiver-policy-v1"
A_DAY_LATER = "2026-03-02T12:00:00Z"


def judged(pack: Path, at: str | None = None, **requirements: Any) -> VerifyResult:
    moment = None if at is None else parse_moment(at)
    return verify_pack(pack, VerifyOptions(policy=ReceiverPolicy(requirements), at=moment))


def unmet(result: VerifyResult) -> list[tuple[str, str]]:
    assert {problem.code for problem in result.problems} <= {Code.POLICY_UNMET}
    assert result.code == (7 if result.problems else 0)
    assert result.ok is not bool(result.problems)
    return [(problem.field, problem.message) for problem in result.problems]


@pytest.mark.parametrize(
    ("requirements", "wrong"),
    [
        ({"verdict": "PASS"}, None),
        ({"suites": ["subset", "smoke"]}, None),
        ({"suites": ["subset"]}, "suite smoke, the policy requires subset"),
        ({"models": ["embedded/mistral-tiny"]}, None),
        ({"models": ["acme/seven"]}, "model embedded/mistral-tiny, which is not among the 1 models of the policy"),
        ({"minimum_models": 1}, None),
        ({"minimum_models": 2}, "reports of 1 models, the policy requires 2"),
        ({"scenarios": ["noop_control", "nan_injection"]}, None),
        ({"scenarios": ["noop_control", "inf_injection"]}, "embedded/mistral-tiny: no passed case of inf_injection"),
        ({"minimum_faults": 1}, None),
        ({"minimum_faults": 2}, "1 detected faults, the policy requires 2"),
        ({"tiers": ["conservative", "balanced"]}, None),
        ({"tiers": ["conservative"]}, "tier balanced, the policy requires conservative"),
        ({"profiles": ["dev"]}, None),
        ({"profiles": ["ci", "release"]}, "profile dev, the policy requires ci or release"),
        ({"formats": ["dense"]}, None),
        ({"formats": ["gguf"]}, "the subject's format is dense, the policy allows gguf"),
        ({"limits": {"ratio_vs_baseline": 1.0, "fidelity_kl_mean": 0.0, "fidelity_same_top_share": 1.0}}, None),
        ({"limits": {"ratio_vs_baseline": 0.99}}, "ratio_vs_baseline 1, the policy requires at most 0.99"),
        ({"signers": [STRANGER]}, "which is not among the 1 signers of the policy"),
        ({"strong_evidence": True}, "the pack is not strong evidence, missing: "),
    ],
)
def test_a_requirement_is_met_or_named(pack: Path, requirements: dict[str, Any], wrong: str | None) -> None:
    found = unmet(judged(pack, **requirements))

    if wrong is None:
        assert found == []
    else:
        ((name, message),) = found
        assert (name, wrong in message) == (next(iter(requirements)), True), message


def test_age_counts_from_the_time_of_the_pack(run: Path, real_run: Any, tmp_path: Path) -> None:
    pack = build_pack(tmp_path / "pack", content(run), real_run.key, "2026-03-01T12:00:00Z").path

    assert unmet(judged(pack, A_DAY_LATER, maximum_age_days=1)) == []
    ((name, message),) = unmet(judged(pack, A_DAY_LATER, maximum_age_days=0.9))
    assert (name, message) == ("maximum_age_days", "the pack is 1.0 days old, the policy allows 0.9")
    ((_, message),) = unmet(judged(pack, "2026-02-01T00:00:00Z", maximum_age_days=100))
    assert "in the future" in message


def test_every_unmet_requirement_is_a_problem_of_its_own(pack: Path, real_run: Any) -> None:
    signer = fingerprint(real_run.key.public)

    found = unmet(judged(pack, verdict="PASS", signers=[signer], suites=["full"], tiers=["aggressive"]))

    assert [name for name, _ in found] == ["suites", "tiers"]


def test_a_limit_that_no_edit_had_to_meet_is_not_met(run: Path, real_run: Any, tmp_path: Path) -> None:
    whole = content(run)
    plan = json.loads(whole.files[SCENARIOS])
    for row in plan["scenarios"]:
        row["strictness"] = "informational"
        row["requirements"].update(detectors_all_of=[], detectors_any_of=[], primary_guard_required=False)
    files = {**whole.files, SCENARIOS: dump_json(plan)}
    pack = build_pack(tmp_path / "pack", replace(whole, files=files, claimed_verdict=None), real_run.key, TIME).path

    ((name, message),) = unmet(judged(pack, limits={"ratio_vs_baseline": 1.1}))

    assert (name, message) == ("limits", "no edit had to pass, so the limits of the policy were not tested")


def test_the_command_reads_the_policy_and_names_what_is_not_met(pack: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_bytes(dump_json({"schema": SCHEMA, "comment": "ours", "verdict": "PASS", "minimum_faults": 9}))

    done = packer("verify", pack, "--policy", policy, "--json")
    nothing = packer("verify", pack, "--policy", tmp_path / "none.json")
    unverified = packer("verify", pack, "--policy", policy, "--report-assurance", "off")

    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"], document["verdict"]) == (7, False, "PASS")
    assert [(row["code"], row["field"]) for row in document["errors"]] == [("policy_unmet", "minimum_faults")]
    assert (nothing.returncode, unverified.returncode) == (3, 2)
    assert "cannot be combined" in unverified.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"maximum_age": 3}, {"verdict": "FAIL"}, {"limits": {}}, {"limits": {"perplexity": 3}}, {"signers": ["me"]},
        {"schema": "invarlock/receiver-policy-v2"}, {"scenarios": []}, {"tiers": ["strict"]},
        {"strong_evidence": False},
    ],
)  # fmt: skip
def test_a_malformed_policy_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(dump_json({"schema": SCHEMA, "verdict": "PASS", **change}))

    with pytest.raises(DocumentError) as refused:
        read_policy(path)
    assert refused.value.code is Code.DOCUMENT_MALFORMED


def test_a_policy_that_requires_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(dump_json({"schema": SCHEMA, "comment": "nothing"}))

    with pytest.raises(UsageError, match="requires nothing"):
        read_policy(path)
    with pytest.raises(MissingFileError):
        read_policy(tmp_path / "none.json")


def test_every_requirement_of_the_schema_is_judged() -> None:
    properties = json.loads((CONTRACTS / "receiver_policy.schema.json").read_bytes())["properties"]

    assert REQUIREMENTS.keys() == properties.keys() - {"schema", "comment"}


def test_the_example_of_the_page_is_a_policy_and_its_table_has_every_rule(tmp_path: Path) -> None:
    page = next((CONTRACTS.parent / "docs").rglob("receivers.md")).read_text()
    example = page.partition("```json\n")[2].partition("```")[0]
    path = tmp_path / "policy.json"
    path.write_text(example)

    assert read_policy(path).requirements.keys() <= REQUIREMENTS.keys()
    assert [name for name in REQUIREMENTS if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("share", "met"), [(0.89, False), (0.9, True), (0.91, True), (None, False)])
def test_a_share_is_limited_from_below(share: float | None, met: bool) -> None:
    row = {"strictness": "must_pass", "path": "a.json", "fidelity_same_top_share": share}
    shown = PackProperties(cast(Manifest, {}), None, Findings(), {"records": [row]}, (), parse_moment(A_DAY_LATER))

    problems = policy_problems(ReceiverPolicy({"limits": {"fidelity_same_top_share": 0.9}}), shown)

    assert [problem.where for problem in problems] == ([] if met else ["a.json"])


@pytest.mark.parametrize(("wanted", "met"), [(1, True), (2, False)])
def test_only_faults_that_were_detected_are_counted(wanted: int, met: bool) -> None:
    rows = [
        {"strictness": strictness, "passed": passed}
        for strictness, passed in (("must_detect", True), ("must_detect", False), ("must_pass", True))
    ]
    shown = PackProperties(cast(Manifest, {}), None, Findings(), {"records": rows}, (), parse_moment(A_DAY_LATER))

    problems = policy_problems(ReceiverPolicy({"minimum_faults": wanted}), shown)

    assert [problem.message for problem in problems] == ([] if met else ["1 detected faults, the policy requires 2"])
