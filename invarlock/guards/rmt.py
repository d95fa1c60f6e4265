"""The rmt guard's judgement: edge risks of a model's activations against the baseline's on the same windows.

The gate is by family: the largest edge risk of a family may grow by at most epsilon, and may not fall by more than
``max_fall``. The probe is by module, over more windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.statistics.rounding import rounded

Modules = Mapping[str, Mapping[str, Any]]


def derive_rmt(raw: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return status, metrics, families, per-module growth and violations of the guard.

    A module that one side could not measure is an error, and the guard fails closed; activations that are not finite
    fail; an expert that saw too few tokens warns.

    Args:
        raw: ``baseline`` and ``subject``, each with ``modules`` (by name: family, tokens, features, nonfinite,
            edge_risk; null where not measured).
        policy: the ``rmt`` limits.
    """
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    violations = list(_unmeasured(before, after))
    families = _families(before, after, policy)
    for family, row in families.items():
        if row["growth"] is not None and row["growth"] > row["epsilon"]:
            reason = f"its largest edge risk grew by {row['growth']:.4g}, limit {row['epsilon']:g}"
            violations.append(_violation(f"family {family}", "fail", reason))
        elif row["growth"] is not None and row["growth"] < -policy["max_fall"]:
            reason = f"its largest edge risk fell by {-row['growth']:.4g}, limit {policy['max_fall']:g}"
            violations.append(_violation(f"family {family}", "fail", reason))
    growths = _growths(before, after)
    known = [growth for growth in growths.values() if growth is not None]
    severities = {violation["severity"] for violation in violations}
    status = next((severity for severity in ("error", "fail", "warn") if severity in severities), "pass")
    return {
        "status": status,
        "passed": status in ("pass", "warn"),
        "metrics": {
            "modules": len(growths),
            "largest_growth": max(known, default=None),
            "largest_fall": min(known, default=None),
            "violating_families": [row["module"] for row in violations if row["module"].startswith("family ")],
        },
        "families": families,
        "modules": growths,
        "violations": violations,
    }


def derive_rmt_probe(raw: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the probe says: which modules grew or fell beyond their own limits, and whether any did.

    Args:
        raw: as for ``derive_rmt``, over more windows.
        policy: the ``rmt`` limits.
    """
    before, after = raw["baseline"]["modules"], raw["subject"]["modules"]
    violations = list(_unmeasured(before, after))
    growths = _growths(before, after)
    own = policy.get("epsilon_by_module", {})
    for name, growth in growths.items():
        epsilon = own.get(name, policy["probe_epsilon"])
        if growth is not None and growth > epsilon:
            violations.append(_violation(name, "fail", f"its edge risk grew by {growth:.4g}, limit {epsilon:g}"))
        elif growth is not None and growth < -policy["max_fall"]:
            reason = f"its edge risk fell by {-growth:.4g}, limit {policy['max_fall']:g}"
            violations.append(_violation(name, "fail", reason))
    found = [row["module"] for row in violations if row["severity"] in ("error", "fail")]
    return {"detected": bool(found), "detected_modules": found, "modules": growths, "violations": violations}


def _violation(module: str, severity: str, reason: str) -> dict[str, str]:
    return {"module": module, "severity": severity, "reason": reason}


def _unmeasured(before: Modules, after: Modules) -> Iterator[dict[str, str]]:
    if not after:
        yield _violation("*", "error", "the subject's activations could not be measured")
        return
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            yield _violation(name, "error", f"only the {'baseline' if name in before else 'subject'} has it")
        elif before[name]["nonfinite"]:
            yield _violation(name, "error", f"{before[name]['nonfinite']} activations of the baseline are not finite")
        elif after[name]["nonfinite"]:
            yield _violation(name, "fail", f"{after[name]['nonfinite']} activations are not finite")
        elif after[name]["edge_risk"] is None and before[name]["edge_risk"] is not None:
            yield _violation(name, "warn", f"saw {after[name]['tokens']} tokens, too few to say anything")


def _growths(before: Modules, after: Modules) -> dict[str, float | None]:
    """Return subject / baseline - 1 of each module that both sides have, None where one was not measured."""
    return {
        name: _growth(before[name]["edge_risk"], after[name]["edge_risk"]) for name in sorted(before) if name in after
    }


def _growth(before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    # a layer whose every feature is constant has no edge risk; that is a fall, or nothing
    return rounded(after / before - 1.0) if before > 0 else (0.0 if after == 0 else None)


def _families(before: Modules, after: Modules, policy: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    families: dict[str, dict[str, Any]] = {}
    own = policy.get("epsilon_by_family", {})
    for family in sorted({row["family"] for row in before.values()}):
        names = [name for name, row in before.items() if row["family"] == family and name in after]
        pairs = [(before[name]["edge_risk"], after[name]["edge_risk"]) for name in names]
        measured = [(first, second) for first, second in pairs if first is not None and second is not None]
        largest = max((first for first, _ in measured), default=None)
        grown = max((second for _, second in measured), default=None)
        families[family] = {
            "modules": len(names),
            "baseline": largest,
            "subject": grown,
            "growth": _growth(largest, grown),
            "epsilon": own.get(family, policy["epsilon"]),
        }
    return families
