"""Probes: a guard's measurement over more windows, written to an additional file if the scenario requires it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, InvarLockError
from invarlock.guards import GUARDS
from invarlock.guards.guard import Guard, Probe
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.derivation import context, contract_hash
from invarlock.reports.verification import differences

# The guards with a probe, by the probe's name, which is also the kind of the detector that reads it.
PROBED: Mapping[str, tuple[Guard, Probe]] = {
    guard.probe.name: (guard, guard.probe) for guard in GUARDS if guard.probe is not None
}


def required_probes(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the probes that a scenario's detectors read."""
    requirements = scenario["requirements"]
    kinds = {detector["kind"] for detector in (*requirements["detectors_all_of"], *requirements["detectors_any_of"])}
    return tuple(name for name in PROBED if name in kinds)


def file_name(probe: str) -> str:
    """Return the name of a probe's file, such as ``rmt_probe.json``."""
    return f"{probe}.json"


def compose_probe(
    probe: str, raw: Mapping[str, Any], contract: Mapping[str, Any], report: Mapping[str, Any]
) -> JsonObject:
    """Return the document of a probe; limits and losses are taken from the report.

    Args:
        probe: ``rmt_probe`` or ``ve_probe``.
        raw: the measurements of the probe's guard over the probe's windows, under ``baseline`` and ``subject``.
        contract: the guard's measurement contract.
        report: the report in the same folder.
    """
    guard, measured = PROBED[probe]
    derived = measured.judge(raw, report["resolved_policy"].get(guard.name, {}), context(report))
    return {
        "schema": f"invarlock/{probe.replace('_', '-')}-v1",
        "run_id": report["run_id"],
        "measurement_contract": dict(contract),
        "measurement_contract_hash": contract_hash(contract),
        "raw": dict(raw),
        **derived,
    }


def probe_problems(
    probe: str, document: Any, report: Mapping[str, Any], baseline: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield the problems of a probe's document.

    Args:
        probe: ``rmt_probe`` or ``ve_probe``.
        document: the document of its file.
        report: the report in the same folder, which verifies.
        baseline: the baseline's own report, or None.
    """
    name = file_name(probe)
    try:
        check_schema(document, probe, where=name)
    except DocumentError as error:
        yield from (problem.coded(Code.COMPANION_DIFFERS) for problem in error.problems)
        return
    contract, raw = document["measurement_contract"], document["raw"]
    for side in ("baseline", "subject"):
        if raw[side]["measurement_contract_hash"] != contract_hash(contract):
            yield Problem(
                Code.CONTRACT_NOT_KEPT, name, f"raw.{side}", "was not measured under the measurement contract"
            )
    guard, _ = PROBED[probe]
    yield from (problem.of(name) for problem in guard.raw_problems("raw", raw, {}))
    if report[guard.name].get("measurement_contract", contract) != contract:
        yield Problem(Code.COMPANION_DIFFERS, name, "measurement_contract", "not that of the report")
    if baseline is not None:
        draws = [draw for draw in baseline["draws"] if draw["run"] == report["meta"]["run"]]
        if len(draws) != 1 or draws[0].get("probe", {}).get(guard.name) != raw["baseline"]:
            yield Problem(Code.BASELINE_DIFFERS, name, "raw.baseline", "not what the baseline's report measured")
    try:
        expected = compose_probe(probe, raw, contract, report)
    except (InvarLockError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        words = f"the raw measurements contradict each other: {str(error)[:200]}"
        yield Problem(Code.RAW_MEASUREMENTS_CONTRADICT, name, "raw", words)
        return
    yield from differences(document, expected, where=name)
