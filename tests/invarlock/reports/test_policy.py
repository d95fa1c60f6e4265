import pytest

from invarlock.errors import UsageError
from invarlock.problems import Code
from invarlock.reports.policy import (
    CORE_GUARDS,
    intent_of,
    overrides_of,
    policy_digest,
    resolve_policy,
    slice_overrides,
)
from invarlock.reports.tiers import profile_windows


@pytest.mark.parametrize(
    ("tier", "ratio", "tail", "caps", "replicates"),
    [("balanced", 1.10, 0.20, 5, 1200), ("conservative", 1.05, 0.12, 3, 1500), ("aggressive", 1.20, 0.30, 8, 800)],
)
def test_each_tier_has_its_limits(tier: str, ratio: float, tail: float, caps: int, replicates: int) -> None:
    policy = resolve_policy(tier, "dev", {})

    assert policy["primary_metric"]["ratio_limit"] == ratio
    assert policy["primary_metric_tail"]["limit"] == tail
    assert policy["spectral"]["max_caps"] == caps
    assert policy["primary_metric"]["replicates"] == replicates


def test_a_verdict_counts_the_signals_of_perplexity_fidelity_and_each_guard_but_not_of_tail_and_tasks() -> None:
    assert CORE_GUARDS == ("primary_metric", "fidelity", "invariants", "spectral", "rmt", "variance")


def test_the_release_profile_resamples_more_and_needs_more_windows() -> None:
    assert resolve_policy("balanced", "release", {})["primary_metric"]["replicates"] == 3200
    assert resolve_policy("balanced", "release", {})["overhead"] == {"budget": 2.0}
    assert "overhead" not in resolve_policy("balanced", "ci", {})
    assert [profile_windows(name) for name in ("dev", "ci", "release")] == [(32, 64), (200, 200), (400, 400)]


def test_an_override_changes_one_limit_and_the_digest() -> None:
    policy = resolve_policy("balanced", "dev", {"spectral.max_caps": 0})

    assert policy["spectral"]["max_caps"] == 0
    assert policy_digest(policy) != policy_digest(resolve_policy("balanced", "dev", {}))


@pytest.mark.parametrize(
    ("tier", "profile", "overrides"),
    [("strict", "dev", {}), ("balanced", "nightly", {}), ("balanced", "dev", {"spectral.caps": 1})],
)
def test_unknown_names_are_refused(tier: str, profile: str, overrides: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"unknown|is not a limit") as caught:
        resolve_policy(tier, profile, overrides)
    assert caught.value.code is Code.POLICY_UNKNOWN


@pytest.mark.parametrize("intent", ["preserve", "change"])
def test_an_intent_reads_back_from_its_overrides(intent: str) -> None:
    overrides = overrides_of(intent)

    assert intent_of(overrides) == intent
    assert resolve_policy("balanced", "dev", overrides)["fidelity"]["intent"] == intent
    assert bool(overrides) == (intent != "preserve")


def test_limits_of_slices_go_to_the_metrics_that_have_them() -> None:
    limits = {"code": {"ratio_limit": 1.2, "kl_limit": 0.2}, "prose": {"ratio_limit": 1.05}}

    overrides = slice_overrides(limits, "balanced")

    assert overrides == {
        "primary_metric.slices": {"code": {"ratio_limit": 1.2}, "prose": {"ratio_limit": 1.05}},
        "fidelity.slices": {"code": {"kl_limit": 0.2}},
    }
    policy = resolve_policy("balanced", "dev", overrides)
    assert policy["primary_metric"]["slices"]["code"] == {"ratio_limit": 1.2}
    with pytest.raises(UsageError, match="'max_caps' is not a limit of a slice") as caught:
        slice_overrides({"code": {"max_caps": 9}}, "balanced")
    assert caught.value.code is Code.POLICY_UNKNOWN
