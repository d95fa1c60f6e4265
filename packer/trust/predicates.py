"""The predicates of a pack's attestations: our own, and two that policy engines support.

Sources: in-toto Simple Verification Result v0.1 and Test Result v0.1
(https://github.com/in-toto/attestation/tree/main/spec/predicates).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from invarlock.packer.trust.attested import AttestedPack

from invarlock import __version__
from invarlock.catalog.cases import case_id
from invarlock.documents import JsonObject
from invarlock.errors import UsageError
from invarlock.problems import Code

DEFAULT = "invarlock"
# The verifier id in a Simple Verification Result; it has the version of the verifying program.
VERIFIER_ID = "urn:invarlock:verifier:v{version}"
PACK_VERIFIED, VERDICT_PASS, STRONG = "INVARLOCK_PACK_VERIFIED", "INVARLOCK_VERDICT_PASS", "INVARLOCK_STRONG"
RESULTS = {"PASS": "PASSED", "FAIL": "FAILED"}


@dataclass(frozen=True)
class Predicate:
    """A predicate: its type, its document's contract, and the function that makes it from a pack and a time."""

    type: str
    schema: str
    make: Callable[[AttestedPack, str], JsonObject]


def _verdict(pack: AttestedPack, created: str) -> JsonObject:
    """Return our own predicate, which has no time: the verdict, the gates of each case, and their provenance."""
    return {
        "verdict": pack.verdict["verdict"],
        "evidence_level": pack.manifest.get("evidence_level"),
        "counts": dict(pack.verdict["counts"]),
        "cases": [
            {
                "model": report.model,
                "scenario": report.scenario,
                "run": report.run,
                "passed": report.passed,
                "ratio_vs_baseline": report.ratio_vs_baseline,
                "gates": dict(report.validation),
                "report_sha256": report.report_sha256,
            }
            for report in pack.reports
        ],
        "provenance": _provenance(pack),
    }


def _simple_verification(pack: AttestedPack, created: str) -> JsonObject:
    """Return the properties of a pack that verification confirmed; properties that it lacks are not listed."""
    version = pack.manifest.get("invarlock_version", __version__)
    holds = {PACK_VERIFIED: True, VERDICT_PASS: pack.verdict["verdict"] == "PASS", STRONG: pack.strong}
    return {
        "verifier": {"id": VERIFIER_ID.format(version=version)},
        "timeCreated": created,
        "properties": [name for name, is_met in holds.items() if is_met],
    }


def _test_result(pack: AttestedPack, created: str) -> JsonObject:
    """Return the result of each case by its id; an informational case with failing gates counts as a warning.

    Raises:
        UsageError: when the pack has no verdict for the whole run.
    """
    verdict = pack.verdict
    if verdict["verdict"] not in RESULTS:
        raise UsageError(
            f"the verdict is {verdict['verdict']}, so the run has no test result; attest the predicate invarlock",
            code=Code.VERDICT_NOT_CLAIMED,
        )
    tests: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for row in verdict["records"]:
        warned = row["strictness"] == "informational" and not row["gates_hold"]
        kind = "failedTests" if not row["passed"] else "warnedTests" if warned else "passedTests"
        tests[kind].append(case_id(row["model"], row["name"], row["run_num"]))
    for cases in verdict["missing"]["by_model"].values():
        tests["failedTests"] += cases
    return {
        "result": RESULTS[verdict["verdict"]],
        "configuration": [
            {"name": path, "digest": {"sha256": digest}} for path, digest in sorted(pack.configuration.items())
        ],
        **{kind: sorted(names) for kind, names in tests.items()},
    }


def _provenance(pack: AttestedPack) -> JsonObject:
    manifest = pack.manifest
    source = manifest.get("invocation", {}).get("config_source") or {}
    found = {
        "suite": manifest.get("suite"),
        "generated_at": manifest.get("generated_at"),
        "invarlock_version": manifest.get("invarlock_version"),
        "models": manifest.get("models"),
        "source": {key: source[key] for key in ("uri", "commit", "dirty") if key in source} or None,
        "environment": manifest.get("environment", {}).get("digest"),
    }
    return {key: value for key, value in found.items() if value is not None}


PREDICATES: Mapping[str, Predicate] = {
    DEFAULT: Predicate("urn:invarlock:evidence-pack-verdict:v1", "evidence_pack_verdict", _verdict),
    "svr": Predicate("https://in-toto.io/attestation/svr/v0.1", "simple_verification_result", _simple_verification),
    "test-result": Predicate("https://in-toto.io/attestation/test-result/v0.1", "test_result", _test_result),
}
