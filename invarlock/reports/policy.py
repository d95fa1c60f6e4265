"""The limits for judging a report: a tier of ``tiers.json``, the profile, a preset's limits, and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invarlock.errors import UsageError
from invarlock.guards import GUARD_NAMES, GUARDS
from invarlock.guards.guard import Guard
from invarlock.jsonio import check_schema, digest_document
from invarlock.judgement.learning import LearnedLimit
from invarlock.metrics import METRICS
from invarlock.metrics.fidelity import PRESERVE
from invarlock.metrics.metric import Metric
from invarlock.problems import Code
from invarlock.reports.tiers import read_tiers

# All metrics and guards that judge a report, in order.
PARTS: tuple[Metric | Guard, ...] = (*METRICS, *GUARDS)
# The names whose signals a verdict counts, and that may be the primary guard of a scenario.
CORE_GUARDS: tuple[str, ...] = (*(metric.name for metric in METRICS if metric.is_guarded), *GUARD_NAMES)
# The limits that a preset derives from null runs, in the order of metrics and guards.
LEARNED_LIMITS: tuple[LearnedLimit, ...] = tuple(learnt for part in PARTS for learnt in part.learned)
# The limits that a preset may set, by dotted name.
PRESET_LIMITS = tuple(sorted(learnt.limit for learnt in LEARNED_LIMITS))


def resolve_policy(
    tier: str, profile: str, overrides: Mapping[str, Any], preset_limits: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return every limit, by guard; the preset overrides the tier, and overrides take precedence over both.

    Args:
        tier: a tier of ``tiers.json``.
        profile: a profile; release has more bootstrap replicates, and a time budget for the guards.
        overrides: values by dotted name, such as ``{"primary_metric_tail.mode": "fail"}``.
        preset_limits: values by dotted name derived from the model's null runs; None without a preset.

    Raises:
        UsageError: when the tier, the profile or the name of a limit is unknown, or a preset exceeds its bounds.
        DocumentError: when a value is out of range.
    """
    tiers = read_tiers()
    if tier not in tiers["tiers"]:
        raise UsageError(f"tier {tier!r} is unknown; known: {', '.join(tiers['tiers'])}", code=Code.POLICY_UNKNOWN)
    if profile not in tiers["profiles"]:
        raise UsageError(
            f"profile {profile!r} is unknown; known: {', '.join(tiers['profiles'])}", code=Code.POLICY_UNKNOWN
        )
    policy: dict[str, Any] = {guard: dict(limits) for guard, limits in tiers["tiers"][tier].items()}
    replicates = tiers["profiles"][profile]["replicates"]
    if replicates is not None:
        policy["primary_metric"]["replicates"] = replicates
    tier_policy = {guard: dict(limits) for guard, limits in policy.items()}
    for name, value in (preset_limits or {}).items():
        if name not in PRESET_LIMITS:
            raise UsageError(f"preset limit {name!r} is not a limit that a preset may set", code=Code.POLICY_UNKNOWN)
        guard, _, limit = name.partition(".")
        policy[guard][limit] = value
    for name, value in overrides.items():
        guard, _, limit = name.partition(".")
        if limit not in policy.get(guard, {}):
            raise UsageError(f"policy override {name!r} is not a limit of tier {tier!r}", code=Code.POLICY_UNKNOWN)
        policy[guard][limit] = value
    if overrides or preset_limits:
        document = {"format": "tiers-v1", "profiles": {}, "tiers": {tier: policy}}
        check_schema(document, "tiers", where="policy")
    if preset_limits:
        _check_preset(preset_limits, tier_policy)
    budget = tiers["profiles"][profile]["overhead_budget"]
    return policy if budget is None else {**policy, "overhead": {"budget": budget}}


def overrides_of(intent: str) -> dict[str, Any]:
    """Return the policy overrides for a subject's intent: ``preserve`` (the tier's default) or ``change``."""
    return {} if intent == PRESERVE else {"fidelity.intent": intent}


def intent_of(overrides: Mapping[str, Any]) -> str:
    """Return the intent that a report's overrides express; the inverse of ``overrides_of``."""
    return str(overrides.get("fidelity.intent", PRESERVE))


def slice_overrides(limits: Mapping[str, Mapping[str, float]], tier: str) -> dict[str, Any]:
    """Return the policy overrides for the limits of slices.

    Args:
        limits: limits by slice name and limit name, such as ``{"code": {"ratio_limit": 1.2}}``.
        tier: the tier, which defines the names of the limits.

    Raises:
        UsageError: when a slice cannot have one of the limits.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    known = {part.name: read_tiers()["tiers"][tier].get(part.name, {}) for part in METRICS}
    for name, own in limits.items():
        for limit, value in own.items():
            owner = next((part for part, row in known.items() if "slices" in row and limit in row), None)
            if owner is None:
                raise UsageError(
                    f"--slice-limit: {limit!r} is not a limit of a slice; see docs/metrics.md", code=Code.POLICY_UNKNOWN
                )
            found.setdefault(f"{owner}.slices", {}).setdefault(name, {})[limit] = value
    return dict(found)


def _check_preset(limits: Mapping[str, Any], tier: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a preset whose scales or drift band are wider, or whose epsilons are narrower, than its tier's.

    Raises:
        UsageError: when a limit is out of bounds; the message names it.
    """
    wrong = [
        line
        for learnt in LEARNED_LIMITS
        if learnt.limit in limits
        for line in learnt.refusals(limits[learnt.limit], tier[learnt.owner])
    ]
    if wrong:
        raise UsageError(f"preset: {wrong[0]}; calibrate the model again", code=Code.PRESET_UNUSABLE)


def policy_digest(policy: Mapping[str, Any]) -> str:
    """Return ``sha256:<hex>`` of a resolved policy."""
    return digest_document(policy)
