"""The spectral guard's judgement: singular values of each weight matrix compared with the baseline's.

For each module, r = ln(sigma_subject / sigma_baseline) and z = r / tau; two-sided p-values are corrected for the number
of modules. A module is capped if it is significant after the correction and |r| exceeds the deadband, or if its rank or
norm collapses. A few capped modules are allowed; a matrix that became zero never is. The change of each matrix is also
examined, and warns if it does not look like compression (``weight_changes``). If it does, r is split into the ratio of
the Frobenius norms and the rest, and each part is compared with the deadband: quantisers clip large weights on purpose
(AWQ, OmniQuant, auto-round), which lowers the norm and flattens the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from invarlock.guards.guard import Guard, NullPart
from invarlock.guards.spectral_page import page_section
from invarlock.guards.spectral_raw import raw_problems
from invarlock.guards.weight_changes import change_metrics, judge_changes, reordered, rounded_only
from invarlock.judgement.context import Context
from invarlock.judgement.detector import DetectorKind
from invarlock.judgement.expectations import comparable
from invarlock.judgement.gate import Gate, gravest, worst_violation
from invarlock.judgement.learning import (
    MARGIN,
    FittedLimit,
    LearnedLimit,
    NullChange,
    largest_ratio_with_margin,
    robust_deviation,
)
from invarlock.judgement.null_level import SAME_ANSWERS
from invarlock.judgement.shares import Shares, largest_share, magnitude, share_of
from invarlock.pages.parts import counted
from invarlock.statistics.rounding import rounded

Module = Mapping[str, Any]
# A severity, its limit, and the limit's logarithm.
_Fall = tuple[str, float, float]
# On all machines, the measured norms of equal matrices differ by less than this.
SAME_NORM = 1e-6
# The smallest null scale of a family in a preset.
SMALLEST_SCALE = 1e-4
# The reason for which a matrix fails the guard, regardless of the tier's limit on capped modules.
ZERO = "all its values are zero, the baseline's are not"
# A matrix whose values are on average smaller than this, such as an unused expert, becomes zero in a format with
# float16 scales; that counts as one capped module.
DEAD = 1e-5


def derive_spectral(
    raw: Mapping[str, Any],
    policy: Mapping[str, Any],
    scaled_by: Mapping[str, str] = MappingProxyType({}),
    rounding: float = 0.0,
    *,
    low_rank: bool = False,
    unchanged: bool = False,
) -> dict[str, Any]:
    """Return status, metrics, per-module numbers and violations of the guard.

    A module that could not be measured on one side is an error, so the guard fails.

    Args:
        raw: ``baseline`` and ``subject``, each with ``measurement_contract_hash`` and ``modules`` (by name: family,
            shape, sigma, residual, frobenius; null if not finite); ``changes`` of the matrices that changed, by name;
            ``canonical`` with the same for matrices that are compared in another form than the stored one.
        policy: the ``spectral`` limits.
        scaled_by: for a matrix that received the scales removed from another matrix: that other matrix, by name.
        rounding: the relative rounding error of the dtype in which tensors are stored.
        low_rank: whether the changes are expected to have few directions, as for an adapter or a fine-tune.
        unchanged: whether the subject answers like its baseline; then too many capped modules only warn.
    """
    before, after, changes = _compared(raw)
    violations = []
    if raw["baseline"]["measurement_contract_hash"] != raw["subject"]["measurement_contract_hash"]:
        violations.append(_violation("*", "error", "subject and baseline were measured in different ways"))
    modules: dict[str, dict[str, Any]] = {}
    scores = _family_scores(before)
    for name in sorted({*before, *after}):
        problem = _unmeasured(before.get(name), after.get(name), changes.get(name))
        if problem is not None:
            violations.append(_violation(name, "error", problem))
            continue
        modules[name] = _compare(before[name], after[name], policy, scores[name]) | {"change": changes.get(name)}
    same = reordered(changes, after)
    skipped = same | rounded_only(changes, raw.get("canonical", {}).get("changes", ()), policy["change"], rounding)
    suspicious = judge_changes(changes, skipped, policy["change"], low_rank)
    significant = _survivors({name: row["p_value"] for name, row in modules.items()}, policy)
    deadband, falls = math.log(policy["deadband_ratio"]), _falls(policy)
    for name, row in modules.items():
        moved = _moved(row, name in changes and name not in suspicious)
        vanished = after[name]["sigma"] == 0 and not _is_dead(before[name])
        for severity, reason in _findings(row, name in significant and moved > deadband, falls, vanished=vanished):
            row["capped"] = row["capped"] or severity in ("cap", "fail")
            violations.append(_violation(name, severity, _with_source(reason, name, scaled_by)))
    for name, reasons in suspicious.items():
        violations += [_violation(name, "warn", _with_source(reason, name, scaled_by)) for reason in reasons]
    capped = [name for name, row in modules.items() if row["capped"]]
    families = [modules[name]["family"] for name in capped]
    metrics = {
        "modules": len(modules),
        "caps_applied": len(capped),
        "max_caps": policy["max_caps"],
        "caps_by_family": {family: families.count(family) for family in sorted(set(families))},
        "capped_modules": capped,
        "max_abs_log_ratio": max(
            (abs(row["log_ratio"]) for row in modules.values() if row["log_ratio"] is not None), default=None
        ),
        "deadband": rounded(deadband),
        **change_metrics(changes, same, skipped, suspicious, low_rank),
    }
    too_many = len(capped) > policy["max_caps"]
    if too_many and unchanged:
        violations.append(_violation("*", "warn", f"{len(capped)} modules capped; {SAME_ANSWERS}"))
    severities = {violation["severity"] for violation in violations}
    failed = (too_many and not unchanged) or "fail" in severities
    status = "error" if "error" in severities else "fail" if failed else "warn" if severities else "pass"
    return {
        "status": status,
        "passed": status in ("pass", "warn"),
        "metrics": metrics,
        "modules": modules,
        "violations": violations,
    }


def _compared(raw: Mapping[str, Any]) -> tuple[Mapping[str, Module], Mapping[str, Module], Mapping[str, Module]]:
    """Return baseline and subject measurements and the changes by module, in the form in which they are compared."""
    canonical = raw.get("canonical", {"baseline": {}, "subject": {}, "changes": {}})
    return (
        {**raw["baseline"]["modules"], **canonical["baseline"]},
        {**raw["subject"]["modules"], **canonical["subject"]},
        {**raw["changes"], **canonical["changes"]},
    )


def _violation(module: str, severity: str, reason: str) -> dict[str, str]:
    return {"module": module, "severity": severity, "reason": reason}


def _with_source(reason: str, module: str, scaled_by: Mapping[str, str]) -> str:
    """Return the reason; if scales were moved to this matrix from another, name that one as a possible cause."""
    if module not in scaled_by:
        return reason
    return f"{reason}; the defect may be in {scaled_by[module]}, whose scales were moved here"


def _unmeasured(before: Module | None, after: Module | None, change: Module | None) -> str | None:
    if after is None or before is None:
        return f"only the {'baseline' if after is None else 'subject'} has it"
    if after["shape"] != before["shape"]:
        return f"shape {after['shape']} cannot be compared with the baseline's {before['shape']}"
    for side, module in (("baseline", before), ("subject", after)):
        if module["sigma"] is None or module["frobenius"] is None:
            return f"the {side}'s spectral norm is not finite"
    moved = not math.isclose(before["frobenius"], after["frobenius"], rel_tol=SAME_NORM)
    if (change is None and moved) or (change is not None and change["coherent"] is None):
        return "it changed, and its change was not measured"
    return None


def _compare(before: Module, after: Module, policy: Mapping[str, Any], family_z: float | None) -> dict[str, Any]:
    log_ratio = _log_ratio(after["sigma"], before["sigma"])
    scale = policy.get("null_scale_by_family", {}).get(before["family"], policy["null_scale"])
    z = None if log_ratio is None else rounded(log_ratio / scale)
    return {
        "family": before["family"],
        "log_ratio": log_ratio,
        "log_stable_rank_ratio": _log_ratio(_stable_rank(after), _stable_rank(before)),
        "log_norm_ratio": _log_ratio(after["frobenius"], before["frobenius"]),
        "z": z,
        "p_value": None if z is None else rounded(math.erfc(abs(z) / math.sqrt(2))),
        "family_z": family_z,
        "capped": False,
    }


def _stable_rank(module: Module) -> float:
    return float(module["frobenius"] ** 2 / module["sigma"] ** 2) if module["sigma"] > 0 else 0.0


def _log_ratio(own: float, base: float) -> float | None:
    """Return ln(own / base); 0 if both are zero, None if only one is."""
    if own > 0 and base > 0:
        return rounded(math.log(own / base))
    return 0.0 if own == base else None


def _family_scores(modules: Mapping[str, Module]) -> dict[str, float | None]:
    """Return (sigma - mean) / deviation of each baseline module within its family."""
    families: dict[str, list[float]] = {}
    for module in modules.values():
        if module["sigma"] is not None:
            families.setdefault(module["family"], []).append(module["sigma"])
    spreads = {family: _mean_and_deviation(sigmas) for family, sigmas in families.items()}
    scores: dict[str, float | None] = {}
    for name, module in modules.items():
        mean, deviation = spreads.get(module["family"], (0.0, 0.0))
        measured = deviation and module["sigma"] is not None
        scores[name] = rounded((module["sigma"] - mean) / deviation) if measured else None
    return scores


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _survivors(p_values: Mapping[str, float | None], policy: Mapping[str, Any]) -> set[str]:
    """Return the modules whose p-value is significant after correction for multiple comparisons.

    Benjamini and Hochberg 1995, or Bonferroni, over all modules that have a ratio.
    """
    known = {name: p for name, p in p_values.items() if p is not None}
    if not known:
        return set()
    alpha, count = policy["alpha"], len(known)
    if policy["correction"] == "bonferroni":
        return {name for name, p in known.items() if p <= alpha / count}
    ordered: Sequence[float] = sorted(known.values())
    passing = [p for rank, p in enumerate(ordered, start=1) if p <= alpha * rank / count]
    return {name for name, p in known.items() if passing and p <= passing[-1]}


def _moved(row: Mapping[str, Any], compressed: bool) -> float:
    """Return how far the spectral norm moved: |r|, but for a compressed matrix at most the larger of its two parts."""
    total: float = row["log_ratio"] or 0.0
    norm: float | None = row["log_norm_ratio"]
    if not compressed or norm is None:
        return abs(total)
    return min(abs(total), max(abs(norm), abs(total - norm)))


def _is_dead(module: Module) -> bool:
    """Return whether the root mean square of a matrix is so small that formats round it to zero."""
    return float(module["frobenius"]) < DEAD * math.sqrt(math.prod(module["shape"]))


def _findings(
    row: Mapping[str, Any], moved: bool, falls: Sequence[tuple[str, str, Sequence[_Fall]]], *, vanished: bool
) -> list[tuple[str, str]]:
    found = []
    if row["log_ratio"] is None:
        found.append(("fail", ZERO) if vanished else ("cap", "all its values are zero on one side"))
    elif moved:
        ratio = math.exp(min(row["log_ratio"], 700.0))
        found.append(("cap", f"spectral norm {ratio:.4g} times the baseline's, z = {row['z']:.4g}"))
    for what, key, limits in falls:
        # a norm that is zero on one side has no ratio; the matrix is capped above
        if row[key] is None:
            continue
        for severity, limit, log_limit in limits:
            if row[key] < log_limit:
                found.append((severity, f"{what} {math.exp(row[key]):.4g} times the baseline's, below {limit}"))
                break
    return found


def _falls(policy: Mapping[str, Any]) -> list[tuple[str, str, list[_Fall]]]:
    """Return the quantities that must not fall too far, their keys in a module's row, and limits, most severe first."""
    return [
        (what, key, [(kind, policy[limits][kind], math.log(policy[limits][kind])) for kind in ("cap", "warn")])
        for what, key, limits in (
            ("stable rank", "log_stable_rank_ratio", "stable_rank_fall"),
            ("norm", "log_norm_ratio", "norm_fall"),
        )
    ]


def _judge(raw: Module, limits: Module, context: Context) -> dict[str, Any]:
    return derive_spectral(
        comparable(raw, context.edit, "shape"),
        limits,
        context.scaled_by,
        context.rounding,
        low_rank=context.low_rank,
        unchanged=context.unchanged,
    )


def _gates(block: Module, limits: Module) -> list[Gate]:
    measured, limit = _measured_and_limit(block)
    return [Gate("spectral_stable", measured, limit, block["passed"])]


def _measured_and_limit(block: Module) -> tuple[str, str]:
    """Return what the gate measured and the limit that decides: no error, no matrix of zeros, or the capped modules."""
    if block["status"] == "error":
        return worst_violation(block), "no error"
    if any(violation["severity"] == "fail" for violation in block["violations"]):
        return gravest(block), "no matrix of zeros"
    count, most = block["metrics"]["caps_applied"], block["metrics"]["max_caps"]
    words = f"{counted(count, 'module')} capped"
    first = next((violation for violation in block["violations"] if violation["severity"] == "cap"), None)
    if first is not None:
        words += f"{', such as' if count > 1 else ':'} {first['module']} ({first['reason']})"
    if count > most and block["passed"]:
        words += f"; this only warns, because {SAME_ANSWERS}"
    return words, counted(most, "module")


def caps_applied(block: Module) -> int:
    """Return the number of capped modules, even if it exceeds the tier's limit."""
    return int(block.get("metrics", {}).get("caps_applied", 0))


def _limits_used(block: Module, limits: Module) -> Shares:
    if block["status"] == "error":
        return {"spectral.max_caps": None}
    rows, metrics = block["modules"].values(), block["metrics"]
    used = {
        "spectral.deadband_ratio": largest_share(
            share_of(magnitude(row["log_ratio"]), math.log(limits["deadband_ratio"])) for row in rows
        ),
        "spectral.max_caps": share_of(metrics["caps_applied"], limits["max_caps"]),
    }
    for limit, key in (("stable_rank_fall", "log_stable_rank_ratio"), ("norm_fall", "log_norm_ratio")):
        warn = math.log(limits[limit]["warn"])
        used[f"spectral.{limit}"] = largest_share(share_of((row[key] or 0.0) / warn, 1.0) for row in rows)
    for limit in ("coherent_share", "flipped_share", "edge_risk"):
        found = metrics[f"max_{'coherent' if limit == 'coherent_share' else limit.removesuffix('_share')}"]
        # pure noise has an edge risk of about 1
        base = 1.0 if limit == "edge_risk" else 0.0
        allowed = limits["change"][limit] - base
        used[f"spectral.change.{limit}"] = share_of((base if found is None else found) - base, allowed)
    return used


def _null_raw(change: NullChange) -> Module:
    return {**change.pair("spectral"), "changes": change.change["weight_changes"]}


def _log_ratios(change: NullChange, policy: Module) -> dict[str, list[float]]:
    """Return ln(sigma / sigma_baseline) of each matrix, by family."""
    found: dict[str, list[float]] = {}
    for row in derive_spectral(_null_raw(change), policy["spectral"])["modules"].values():
        if row["log_ratio"] is not None:
            found.setdefault(row["family"], []).append(row["log_ratio"])
    return found


def _null_scales(changes: Sequence[Mapping[str, Sequence[float]]], policy: Module, windows: int) -> dict[str, Any]:
    """Return tau by family: 1.4826 * MAD of ln(sigma / sigma_baseline), at least a floor and at most the tier's tau."""
    rows = {}
    for family in sorted({family for change in changes for family in change}):
        values = [value for change in changes for value in change.get(family, ())]
        scale = robust_deviation(values)
        rows[family] = {
            "n": len(values),
            "scale": rounded(scale),
            "largest": rounded(max(abs(value) for value in values)),
            "limit": rounded(min(policy["spectral"]["null_scale"], max(scale, SMALLEST_SCALE))),
        }
    return rows


def _wide_scales(scales: Mapping[str, float], tier: Module) -> Iterator[str]:
    for family, scale in scales.items():
        if scale > tier["null_scale"]:
            yield f"spectral.null_scale_by_family.{family} {scale:g} is above the tier's {tier['null_scale']:g}"


def _all_log_ratios(change: NullChange, policy: Module) -> list[float]:
    return [ratio for ratios in _log_ratios(change, policy).values() for ratio in ratios]


def _fitted_scale(log_ratios: Sequence[float]) -> tuple[float, Any]:
    level = robust_deviation(log_ratios)
    return level, rounded(MARGIN * level)


SPECTRAL = Guard(
    name="spectral",
    judge=_judge,
    page_section=page_section,
    flags=("spectral_stable",),
    gates=_gates,
    detects=lambda block: caps_applied(block) > 0,
    limits_used=_limits_used,
    signalled_modules=lambda block: block.get("metrics", {}).get("capped_modules"),
    facts=lambda block: {"spectral_caps_applied": block.get("metrics", {}).get("caps_applied")},
    raw_problems=raw_problems,
    detectors=(DetectorKind("spectral_caps_applied", lambda detector, report: caps_applied(report["spectral"])),),
    null=NullPart(_null_raw),
    learned=(
        LearnedLimit(
            block="spectral",
            limit="spectral.null_scale_by_family",
            statistics=_log_ratios,
            derive=_null_scales,
            value=lambda rows: {family: row["limit"] for family, row in rows.items()},
            refusals=_wide_scales,
        ),
    ),
    fitted=(
        FittedLimit("spectral.null_scale", _fitted_scale, of_change=_all_log_ratios),
        FittedLimit(
            "spectral.deadband_ratio",
            largest_ratio_with_margin,
            of_change=_all_log_ratios,
            of_report=lambda block: [row["log_ratio"] for row in block["modules"].values()],
        ),
    ),
)
