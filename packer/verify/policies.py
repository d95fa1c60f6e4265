"""A receiver's policy: further requirements that a valid pack must meet before its receiver relies on it.

Example, for a deployment that accepts quantised models by one team::

    {"schema": "invarlock/receiver-policy-v1", "verdict": "PASS", "signers": ["sha256:…"], "suites": ["subset", "full"],
     "maximum_age_days": 30, "scenarios": ["noop_control", "nan_injection"], "tiers": ["balanced"],
     "limits": {"ratio_vs_baseline": 1.05, "fidelity_kl_mean": 0.05, "fidelity_same_top_share": 0.9}}

Each requirement is optional. A requirement that the pack does not meet is a problem with the code ``policy_unmet``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.checksums import MANIFEST_NAME
from invarlock.packer.format.documents import Manifest
from invarlock.packer.trust.signers import parse_moment
from invarlock.packer.verify.report import ReportFacts
from invarlock.packer.verify.reports import Findings

from invarlock.errors import UsageError
from invarlock.jsonio import check_schema, read_json
from invarlock.problems import Code, Problem

SCHEMA = "receiver_policy"
SECONDS_A_DAY = 24 * 60 * 60
# Measures for which larger is better: a policy sets a lower limit on them.
LARGER_IS_BETTER = frozenset({"fidelity_same_top_share"})


@dataclass(frozen=True)
class ReceiverPolicy:
    """The requirements of a policy file, by name."""

    requirements: Mapping[str, Any]


@dataclass(frozen=True)
class PackProperties:
    """The properties of a valid pack that a policy can restrict.

    Attributes:
        manifest: the pack's manifest.
        signer: the fingerprint of the pack's signer, None if the pack is unsigned.
        found: the pack's reports and plan.
        verdict: the derived verdict, None if there is no verdict.
        missing_for_strong: the reasons why the pack is not strong evidence for this receiver.
        at: the moment at which the pack is judged.
        stamped_at: the time of the signature's verified time stamp, None without a time stamp.
    """

    manifest: Manifest
    signer: str | None
    found: Findings
    verdict: Mapping[str, Any] | None
    missing_for_strong: Sequence[str]
    at: datetime
    stamped_at: datetime | None = None


def read_policy(path: Path) -> ReceiverPolicy:
    """Return the policy in a JSON file.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when the file is not a policy or has an unknown requirement.
        UsageError: when the policy requires nothing.
    """
    document = read_json(path)
    check_schema(document, SCHEMA, where=str(path))
    requirements = {name: value for name, value in document.items() if name not in ("schema", "comment")}
    if not requirements:
        raise UsageError(
            "the policy requires nothing; add a requirement such as 'verdict': 'PASS'",
            code=Code.DOCUMENT_MALFORMED,
            where=str(path),
        )
    return ReceiverPolicy(requirements)


def policy_problems(policy: ReceiverPolicy, shown: PackProperties) -> list[Problem]:
    """Return a problem for each way in which a pack does not meet a policy."""
    return [
        Problem(Code.POLICY_UNMET, where, name, words)
        for name, wanted in sorted(policy.requirements.items())
        for where, words in REQUIREMENTS[name](wanted, shown)
    ]


# For each unmet requirement, the place in the pack and the reason.
Unmet = Iterator[tuple[str, str]]


def _verdict(wanted: str, shown: PackProperties) -> Unmet:
    verdict = None if shown.verdict is None else shown.verdict["verdict"]
    if verdict != wanted:
        yield layout.VERDICT_JSON, f"the verdict is {verdict or 'missing'}, the policy requires {wanted}"


def _strong_evidence(wanted: bool, shown: PackProperties) -> Unmet:
    if wanted and shown.missing_for_strong:
        yield "", f"the pack is not strong evidence, missing: {'; '.join(shown.missing_for_strong)}"


def _signers(wanted: Sequence[str], shown: PackProperties) -> Unmet:
    if shown.signer not in wanted:
        yield "", f"signed by {shown.signer or 'nobody'}, which is not among the {len(wanted)} signers of the policy"


def _suites(wanted: Sequence[str], shown: PackProperties) -> Unmet:
    suite = shown.manifest.get("suite")
    if suite not in wanted:
        yield MANIFEST_NAME, f"suite {suite or 'not stated'}, the policy requires {_any_of(wanted)}"


def _maximum_age_days(wanted: float, shown: PackProperties) -> Unmet:
    stated = shown.manifest.get("generated_at")
    if stated is None:
        yield MANIFEST_NAME, "does not say when the pack was made"
        return
    # a pack is at least as old as the time stamp of its signature
    made = parse_moment(stated) if shown.stamped_at is None else min(parse_moment(stated), shown.stamped_at)
    age = (shown.at - made).total_seconds() / SECONDS_A_DAY
    if age > wanted:
        yield MANIFEST_NAME, f"the pack is {age:.1f} days old, the policy allows {wanted:g}"
    elif age < 0:
        yield MANIFEST_NAME, f"the pack says that it was made at {stated}, which is in the future"


def _models(wanted: Sequence[str], shown: PackProperties) -> Unmet:
    for model in sorted({facts.model_id for facts in shown.found.facts.values()} - set(wanted)):
        yield "", f"model {model}, which is not among the {len(wanted)} models of the policy"


def _minimum_models(wanted: int, shown: PackProperties) -> Unmet:
    models = len({facts.model_id for facts in shown.found.facts.values()})
    if models < wanted:
        yield "", f"reports of {models} models, the policy requires {wanted}"


def _scenarios(wanted: Sequence[str], shown: PackProperties) -> Unmet:
    done = {(row["model"], row["name"]) for row in _passed(shown)}
    models = sorted({planned.case["model"] for planned in shown.found.planned.plan.cases.values()})
    if not models:
        yield "", "the pack has no cases, so none of the scenarios that the policy requires"
    for model in models:
        missing = [name for name in wanted if (model, name) not in done]
        if missing:
            yield "", f"{model}: no passed case of {', '.join(missing)}"


def _minimum_faults(wanted: int, shown: PackProperties) -> Unmet:
    detected = sum(row["strictness"] == "must_detect" for row in _passed(shown))
    if detected < wanted:
        yield "", f"{detected} detected faults, the policy requires {wanted}"


def _tiers(wanted: Sequence[str], shown: PackProperties) -> Unmet:
    yield from _clean_reports_have("tier", wanted, shown)


def _profiles(wanted: Sequence[str], shown: PackProperties) -> Unmet:
    yield from _clean_reports_have("profile", wanted, shown)


def _formats(wanted: Sequence[str], shown: PackProperties) -> Unmet:
    for facts in _clean(shown):
        form = None if facts.page.storage is None else facts.page.storage.form
        if form not in wanted:
            yield facts.path, f"the subject's format is {form or 'unknown'}, the policy allows {_any_of(wanted)}"


def _limits(wanted: Mapping[str, float], shown: PackProperties) -> Unmet:
    rows = [row for row in _records(shown) if row["strictness"] == "must_pass"]
    if not rows:
        yield layout.VERDICT_JSON, "no edit had to pass, so the limits of the policy were not tested"
    for name, limit in sorted(wanted.items()):
        for row in rows:
            value = row.get(name)
            larger = name in LARGER_IS_BETTER
            if value is None:
                yield row["path"], f"{name} was not measured, the policy limits it to {limit:g}"
            elif value < limit if larger else value > limit:
                most = "at least" if larger else "at most"
                yield row["path"], f"{name} {value:.6g}, the policy requires {most} {limit:g}"


REQUIREMENTS: Mapping[str, Callable[[Any, PackProperties], Unmet]] = {
    "formats": _formats,
    "limits": _limits,
    "maximum_age_days": _maximum_age_days,
    "minimum_faults": _minimum_faults,
    "minimum_models": _minimum_models,
    "models": _models,
    "profiles": _profiles,
    "scenarios": _scenarios,
    "signers": _signers,
    "strong_evidence": _strong_evidence,
    "suites": _suites,
    "tiers": _tiers,
    "verdict": _verdict,
}


def _records(shown: PackProperties) -> Sequence[Mapping[str, Any]]:
    return [] if shown.verdict is None else list(shown.verdict["records"])


def _passed(shown: PackProperties) -> Iterator[Mapping[str, Any]]:
    return (row for row in _records(shown) if row["passed"])


def _clean(shown: PackProperties) -> Iterator[ReportFacts]:
    return (shown.found.facts[path] for path in shown.found.clean)


def _clean_reports_have(key: str, wanted: Sequence[str], shown: PackProperties) -> Unmet:
    if not shown.found.clean:
        yield "", f"the pack has no clean report, so none with a {key} of the policy"
    for facts in _clean(shown):
        value = facts.context.get(key)
        if value not in wanted:
            yield facts.path, f"{key} {value or 'not stated'}, the policy requires {_any_of(wanted)}"


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(names)
