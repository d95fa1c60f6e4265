"""Shares of limits: how much of what is allowed was used."""

import math

import pytest

from invarlock.judgement.shares import largest_share, magnitude, share_of


@pytest.mark.parametrize(
    ("value", "allowed", "share"),
    [
        (1.0, 4.0, 0.25),
        (4.0, 4.0, 1.0),
        (6.0, 4.0, 1.5),
        (0.0, 4.0, 0.0),
        (-2.0, 4.0, 0.0),
        (-2.0, 0.0, 0.0),
        (2.0, 0.0, None),
        (2.0, -1.0, None),
        (math.inf, 4.0, None),
        (math.nan, 4.0, None),
        (None, 4.0, None),
    ],
)
def test_a_share_is_of_what_is_allowed(value: float | None, allowed: float, share: float | None) -> None:
    assert share_of(value, allowed) == share


def test_the_largest_share_counts_unless_one_was_not_measured() -> None:
    assert largest_share([]) == 0.0
    assert largest_share([0.5, 0.75, 0.25]) == 0.75
    assert largest_share([0.5, None]) is None
    assert [magnitude(value) for value in (-2.0, 2.0, None)] == [2.0, 2.0, None]
