"""Patterns of configs match as in the tools, or not at all."""

from __future__ import annotations

import time

import pytest

from invarlock.checkpoints.formats.patterns import MAX_NAME, begins


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*x", "[", "a" * 600, ".*.*.*.*.*x", "a?" * 30 + "x", "(a|a)" * 30])
def test_a_pattern_that_is_malformed_or_slow_is_not_matched(pattern: str) -> None:
    assert begins(pattern, "a" * 60) is None


@pytest.mark.parametrize("pattern", [".*.*.*.*x", r"\w*\w*\w*\w*x", "(a|a)(a|a)(a|a)(a|a)a*a*a*a*x"])
def test_a_pattern_that_is_matched_takes_little_time(pattern: str) -> None:
    began = time.monotonic()

    assert begins(pattern, "a" * MAX_NAME) is False
    assert time.monotonic() - began < 30


def test_an_end_follows_every_alternative() -> None:
    assert begins("a|ab", "abc", "$") is False
    assert begins("a|abc", "abc", "$") is True
