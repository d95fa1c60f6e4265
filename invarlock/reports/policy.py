"""The limits that a report is judged by: a tier of ``tiers.json``, the profile, and overrides."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from invarlock.errors import UsageError
from invarlock.jsonio import check_schema, digest_document, parse_json


@cache
def _tiers() -> Mapping[str, Any]:
    data = resources.files("invarlock.contracts").joinpath("tiers.json").read_bytes()
    document: dict[str, Any] = parse_json(data, where="tiers.json")
    check_schema(document, "tiers", where="tiers.json")
    return document


def tier_names() -> tuple[str, ...]:
    return tuple(_tiers()["tiers"])


def profile_names() -> tuple[str, ...]:
    return tuple(_tiers()["profiles"])


def profile_windows(profile: str) -> tuple[int, int]:
    """Return how many preview and final windows a profile asks for."""
    row = _tiers()["profiles"][profile]
    return row["preview_windows"], row["final_windows"]


def resolve_policy(tier: str, profile: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return every limit used, by guard.

    Args:
        tier: a tier of ``tiers.json``.
        profile: a profile; release asks for more bootstrap replicates.
        overrides: values by dotted name, such as ``{"primary_metric_tail.mode": "fail"}``.

    Raises:
        UsageError: when the tier, the profile or the name of an override is unknown.
        DocumentError: when an override's value is out of range.
    """
    tiers = _tiers()
    if tier not in tiers["tiers"]:
        raise UsageError(f"tier {tier!r} is unknown; known: {', '.join(tiers['tiers'])}")
    if profile not in tiers["profiles"]:
        raise UsageError(f"profile {profile!r} is unknown; known: {', '.join(tiers['profiles'])}")
    policy: dict[str, Any] = {guard: dict(limits) for guard, limits in tiers["tiers"][tier].items()}
    replicates = tiers["profiles"][profile]["replicates"]
    if replicates is not None:
        policy["primary_metric"]["replicates"] = replicates
    for name, value in overrides.items():
        guard, _, limit = name.partition(".")
        if limit not in policy.get(guard, {}):
            raise UsageError(f"policy override {name!r} names no limit of tier {tier!r}")
        policy[guard][limit] = value
    if overrides:
        check_schema({"format": "tiers-v1", "profiles": {}, "tiers": {tier: policy}}, "tiers", where="policy overrides")
    return policy


def policy_digest(policy: Mapping[str, Any]) -> str:
    """Return ``sha256:<hex>`` of a resolved policy."""
    return digest_document(policy)
