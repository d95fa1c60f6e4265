"""Gates: what blocks, what only warns, and what has no gate at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from invarlock.judgement.gate import worst_violation
from invarlock.judgement.null_level import SAME_ANSWERS
from invarlock.metrics.perplexity import NO_INTERVAL
from invarlock.reports.gates import judge_gates
from invarlock.reports.policy import resolve_policy

POLICY = resolve_policy("balanced", "dev", {})


def blocks(**changed: Any) -> dict[str, Any]:
    """Return the blocks of a report in which everything holds, but for those given."""
    spectral = {"status": "pass", "passed": True, "violations": [], "metrics": {"caps_applied": 0, "max_caps": 5}}
    return {
        "primary_metric": {
            "invalid": False,
            "windows": 16,
            "ratio_vs_baseline": 1.0,
            "ci": [1.0, 1.0],
            "drift": 1.0,
            "reason": None,
        },
        "primary_metric_tail": {"status": "not_evaluated", "mode": "warn", "value": None, "limit": 0.2},
        "tasks": {"status": "not_evaluated"},
        "fidelity": {
            "invalid": False,
            "reason": None,
            "kl_mean": 0.0,
            "kl_mean_ci": [0.0, 0.0],
            "kl_p999": 0.0,
            "same_top_share": 1.0,
            "same_top_ci": [1.0, 1.0],
        },
        "invariants": {"status": "pass", "passed": True, "violations": []},
        "spectral": spectral,
        "rmt": {"status": "not_evaluated", "passed": None},
        "variance": {"status": "not_evaluated", "passed": None},
        "telemetry": {},
    } | changed


@pytest.mark.parametrize(
    ("module", "reason", "shown"),
    [
        ("not measured", "not measured", "warn: not measured"),
        ("a.weight", "too large", "warn: a.weight: too large"),
        ("z.weight", "too large", "warn: z.weight: too large"),
        ("*", "too large", "warn: too large"),
    ],
)
def test_a_violation_of_no_module_is_shown_without_a_place(module: str, reason: str, shown: str) -> None:
    violation = {"module": module, "severity": "warn", "reason": reason}

    assert worst_violation({"status": "warn", "violations": [violation]}) == shown
    assert worst_violation({"status": "warn", "violations": [violation] * 2}) == f"{shown} (and 1 more violation)"
    assert worst_violation({"status": "warn", "violations": [violation] * 3}) == f"{shown} (and 2 more violations)"


def tail(mode: str, value: float | None, reason: str | None = None) -> dict[str, Any]:
    """Return the block of the tail as it is read from a report's file."""
    holds = value is not None and value <= 0.2
    block = {"status": "pass" if holds else mode, "mode": mode, "quantile": 0.95, "value": value, "limit": 0.2}
    block["reason"] = reason
    read: dict[str, Any] = json.loads(json.dumps(block))
    return read


def test_a_guard_that_was_not_evaluated_has_no_gate() -> None:
    gates = judge_gates(blocks(), POLICY)

    assert [gate.flag for gate in gates] == [
        "primary_metric_acceptable",
        "preview_final_drift_acceptable",
        "primary_metric_evidence_acceptable",
        "fidelity_kl_acceptable",
        "fidelity_same_top_acceptable",
        "fidelity_tail_acceptable",
        "invariants_pass",
        "spectral_stable",
    ]
    assert all(gate.holds and gate.blocks for gate in gates)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"windows": 7}, "too few windows; 7 windows and an interval "),
        (
            {"windows": 0, "ci": None, "invalid": True, "reason": "no window was scored"},
            f"too few windows; {NO_INTERVAL}",
        ),
        ({"windows": 8, "ci": [0.99, 1.0901]}, "the interval is too wide; 8 windows"),
        ({"windows": 8, "ci": [0.99, 1.0899]}, None),
        ({"windows": 64, "ci": None, "invalid": True, "reason": "the subject was not loaded"}, NO_INTERVAL),
        ({"windows": 64, "ci": [0.99, None]}, NO_INTERVAL),
    ],
)
def test_too_little_evidence_is_no_pass(changed: dict[str, Any], reason: str | None) -> None:
    given = blocks()
    given["primary_metric"] |= changed
    gate = {gate.flag: gate for gate in judge_gates(given, POLICY)}["primary_metric_evidence_acceptable"]

    assert (gate.holds, gate.blocks) == (reason is None, True)
    assert reason is None or gate.measured.startswith(reason)


@pytest.mark.parametrize(
    ("mode", "value", "holds", "blocks_"),
    [
        ("warn", 0.2, True, False),
        ("warn", 0.21, False, False),
        ("fail", 0.2, True, True),
        ("fail", 0.21, False, True),
        ("warn", None, False, False),
        ("fail", None, False, True),
    ],
)
def test_a_tail_blocks_in_mode_fail_alone(mode: str, value: float | None, holds: bool, blocks_: bool) -> None:
    gates = {gate.flag: gate for gate in judge_gates(blocks(primary_metric_tail=tail(mode, value)), POLICY)}
    gate = gates["primary_metric_tail_acceptable"]

    assert (gate.holds, gate.blocks) == (holds, blocks_)
    shown = "no value" if value is None else f"{value} nats a token at the 95 % quantile of windows"
    assert (gate.measured, gate.limit) == (shown, "0.2")


def test_a_tail_of_too_few_windows_says_so_in_its_gate() -> None:
    given = blocks(primary_metric_tail=tail("fail", None, "too few windows"))
    gate = {gate.flag: gate for gate in judge_gates(given, POLICY)}["primary_metric_tail_acceptable"]

    assert gate.line == "primary_metric_tail_acceptable: too few windows, limit 0.2"
    assert not gate.holds


@pytest.mark.parametrize("guard", ["invariants", "spectral", "rmt"])
@pytest.mark.parametrize("status", ["fail", "error"])
def test_a_guard_that_does_not_pass_blocks_and_names_the_first_of_what_it_found(guard: str, status: str) -> None:
    found = [{"module": "a", "severity": "warn", "reason": "is odd"}]
    found += [{"module": name, "severity": status, "reason": "is wrong"} for name in ("b", "c", "d")]
    block = {"status": status, "passed": False, "violations": found, "metrics": {"caps_applied": 7, "max_caps": 5}}

    gate = next(gate for gate in judge_gates(blocks(**{guard: block}), POLICY) if not gate.holds)

    assert gate.blocks
    if guard == "spectral" and status == "fail":
        assert (gate.measured, gate.limit) == ("b: is wrong (and 3 more violations)", "no matrix of zeros")
    else:
        assert gate.measured == f"{status}: b: is wrong (and 3 more violations)"
        assert gate.limit == ("no error" if guard == "spectral" else "no violation")


@pytest.mark.parametrize(
    ("capped", "most", "passed", "line"),
    [
        (0, 5, True, "0 modules capped, limit 5 modules"),
        (1, 1, True, "1 module capped: a (norm 0.01 times the baseline's, below 0.1), limit 1 module"),
        (6, 5, False, "6 modules capped, such as a (norm 0.01 times the baseline's, below 0.1), limit 5 modules"),
        (
            6,
            5,
            True,
            "6 modules capped, such as a (norm 0.01 times the baseline's, below 0.1); this only warns, because "
            f"{SAME_ANSWERS}, limit 5 modules",
        ),
    ],
)
def test_the_gate_of_capped_modules_names_the_one_limit_that_it_applies(
    capped: int, most: int, passed: bool, line: str
) -> None:
    found = [{"module": "w", "severity": "warn", "reason": "is odd, limit 7"}]
    found += [{"module": "a", "severity": "cap", "reason": "norm 0.01 times the baseline's, below 0.1"}] * capped
    metrics = {"caps_applied": capped, "max_caps": most}
    block = {"status": "warn" if passed else "fail", "passed": passed, "violations": found, "metrics": metrics}

    gate = judge_gates(blocks(spectral=block), POLICY)[-1]

    assert (gate.line, gate.holds) == (f"spectral_stable: {line}", passed)


@pytest.mark.parametrize("guard", ["invariants", "rmt"])
def test_a_guard_that_only_warns_names_what_it_found(guard: str) -> None:
    found = [{"module": "a", "severity": "warn", "reason": "is odd"}]
    block = {"status": "warn", "passed": True, "violations": found, "metrics": {"caps_applied": 0, "max_caps": 5}}

    gates = judge_gates(blocks(**{guard: block}), POLICY)

    assert all(gate.holds for gate in gates)
    assert [gate.flag for gate in gates if "a: is odd" in gate.measured] == [
        {"invariants": "invariants_pass", "rmt": "rmt_stable"}[guard]
    ]
