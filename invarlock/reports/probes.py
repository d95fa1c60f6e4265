"""Probes: a guard's measurement over more windows, in a file beside the report of the scenarios that ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.errors import DocumentError, InvarLockError
from invarlock.guards.rmt import derive_rmt_probe
from invarlock.guards.variance import derive_ve_probe
from invarlock.jsonio import check_schema
from invarlock.reports.derivation import bootstrap, contract_hash
from invarlock.reports.verification import activation_problems, differences

# The probes by the kind of detector that reads them, with the guard whose measurement they are.
PROBE_GUARDS: Mapping[str, str] = {"rmt_probe": "rmt", "ve_probe": "variance"}
SCHEMAS: Mapping[str, str] = {"rmt_probe": "invarlock/rmt-probe-v1", "ve_probe": "invarlock/ve-probe-v1"}


def probes_asked(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the probes that a scenario's detectors read."""
    requirements = scenario["requirements"]
    kinds = {detector["kind"] for detector in (*requirements["detectors_all_of"], *requirements["detectors_any_of"])}
    return tuple(name for name in PROBE_GUARDS if name in kinds)


def file_name(probe: str) -> str:
    """Return the name of a probe's file: ``rmt_probe.json``."""
    return f"{probe}.json"


def compose_probe(
    probe: str, raw: Mapping[str, Any], contract: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of a probe; limits and losses are the report's.

    Args:
        probe: ``rmt_probe`` or ``ve_probe``.
        raw: ``baseline`` and ``subject`` of its guard, over the probe's windows.
        contract: the guard's measurement contract.
        report: the report that it stands beside.
    """
    policy = report["resolved_policy"]
    if probe == "rmt_probe":
        derived = derive_rmt_probe(raw, policy["rmt"])
    else:
        derived = derive_ve_probe(raw, policy["variance"], report["evaluation_windows"]["final"], bootstrap(report))
    return {
        "schema": SCHEMAS[probe],
        "run_id": report["run_id"],
        "measurement_contract": dict(contract),
        "measurement_contract_hash": contract_hash(contract),
        "raw": dict(raw),
        **derived,
    }


def probe_problems(
    probe: str, document: Any, report: Mapping[str, Any], baseline: Mapping[str, Any] | None
) -> Iterator[str]:
    """Yield what is wrong with a probe's document.

    Args:
        probe: ``rmt_probe`` or ``ve_probe``.
        document: of its file.
        report: the report beside it, which verifies.
        baseline: the baseline's own report, None when there is none.
    """
    name = file_name(probe)
    try:
        check_schema(document, probe, where=name)
    except DocumentError as error:
        yield str(error)
        return
    contract, raw = document["measurement_contract"], document["raw"]
    for side in ("baseline", "subject"):
        if raw[side]["measurement_contract_hash"] != contract_hash(contract):
            yield f"{name}: raw.{side}: was not measured by the measurement contract"
    if probe == "rmt_probe":
        yield from activation_problems(f"{name}: raw", raw)
    guard = report[PROBE_GUARDS[probe]]
    if guard.get("measurement_contract", contract) != contract:
        yield f"{name}: measurement_contract: not that of the report"
    if baseline is not None:
        draws = [draw for draw in baseline["draws"] if draw["run"] == report["meta"]["run"]]
        if len(draws) != 1 or draws[0].get("probe", {}).get(PROBE_GUARDS[probe]) != raw["baseline"]:
            yield f"{name}: raw.baseline: not what the baseline's report measured"
    try:
        expected = compose_probe(probe, raw, contract, report)
    except (InvarLockError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        yield f"{name}: the raw measurements do not hold together: {str(error)[:200]}"
        return
    yield from (f"{name}: {line}" for line in differences(document, expected))
