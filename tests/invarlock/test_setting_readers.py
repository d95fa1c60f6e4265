"""Readers of settings: any text is a value within its bounds or a ValueError, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invarlock.errors import UsageError, printable
from invarlock.settings import SETTINGS, Setting, readers, resolve_settings

# Digits that are none of ASCII's, spaces, signs, exponents: what int() and float() would take.
ODD = st.sampled_from(
    ["", " ", "0", "1", "+1", "-1", "1_0", "01", "٣", "²", "½", "1e3", "nan", "inf", "0x1", "1.", ".5", "1,", ",", ",,",
     "a,a", "1/0", "0/0", "1/1/1", "9" * 5000, "1\n", "\n1", "\0", "\ud800", "1s ", "1S", "1 h", "1d", "1.5h"]
)  # fmt: skip
TEXT = ODD | st.text(max_size=12) | st.text("0123456789./smh,+- ", max_size=8)
ROWS = [pytest.param(setting, id=setting.name) for setting in SETTINGS]


def read(reader: Any, text: str) -> Any:
    """Return what a reader makes of a text, None where it refuses it in words."""
    try:
        return reader(text)
    except ValueError as error:
        said = str(error)
    assert len(said) >= 3
    assert said.isprintable()
    return None


@given(TEXT, st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_whole_number_is_plain_digits_within_its_bounds(text: str, one: int, other: int) -> None:
    low, high = sorted((one, other))

    value = read(readers.whole(low, high), text)

    plain = text.isascii() and text.isdigit() and len(text) <= 10
    assert value == (int(text) if plain and low <= int(text) <= high else None)
    for bound, holds in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        assert (read(readers.whole(low, high), str(bound)) == bound) is holds


@given(st.integers(1, 10**9 - 1), st.sampled_from(["", "s", "m", "h"]))
def test_a_time_is_its_number_times_its_unit_up_to_thirty_years(number: int, unit: str) -> None:
    seconds = number * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]

    assert read(readers.seconds, f"{number}{unit}") == (seconds if seconds <= 10**9 else None)


@given(TEXT)
def test_a_time_is_positive_or_refused(text: str) -> None:
    value = read(readers.seconds, text)

    assert value is None or 0 < value <= 10**9
    assert value is None or text.rstrip("smh").isascii()


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_shard_is_one_of_its_parts(index: int, count: int) -> None:
    wanted = (index, count) if 1 <= index <= count <= 9999 else None

    assert read(readers.shard, f"{index}/{count}") == wanted


@given(TEXT)
def test_a_shard_of_any_text_is_one_or_refused(text: str) -> None:
    value = read(readers.shard, text)

    assert value is None or 1 <= value[0] <= value[1]


@given(TEXT | st.decimals(0, 10**6 - 1, places=3).map(str))
def test_a_size_is_finite_and_not_negative(text: str) -> None:
    value = read(readers.gigabytes, text)

    assert value is None or 0 <= value < 10**6
    assert value is None or value == float(text)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4), st.sampled_from(["", " ", "  "]))
def test_some_of_the_choices_keep_their_order_and_none_is_twice(chosen: list[str], space: str) -> None:
    value = read(readers.some_of("a", "b", "c"), f",{space}".join(chosen))

    assert value == (tuple(chosen) if len(set(chosen)) == len(chosen) else None)


@given(st.lists(st.text(st.characters(exclude_characters=","), min_size=1, max_size=4)))
def test_names_are_separated_by_commas(given_names: list[str]) -> None:
    value = read(readers.names, ",".join(given_names))

    wanted = tuple(name.strip() for name in given_names if name.strip())
    assert value == (wanted or None)


@given(TEXT)
def test_a_flag_is_zero_or_one(text: str) -> None:
    wanted = {"0": False, "1": True}.get(text)

    assert read(readers.flag, text) is wanted
    assert read(readers.opposite, text) is (None if wanted is None else not wanted)
    assert read(readers.choice("x", "y"), text) == (text if text in ("x", "y") else None)


@pytest.mark.parametrize("setting", ROWS)
def test_any_text_of_an_option_or_a_variable_is_a_value_or_one_usage_error(setting: Setting) -> None:
    # of every setting: few of each
    @settings(max_examples=25)
    @given(TEXT)
    def check(text: str) -> None:
        for options, environment in (
            *([({setting.name: [text] if setting.many else text}, {})] if setting.option and not setting.flag else []),
            *([({}, {setting.variables[0]: text})] if setting.variables else []),
        ):
            said = ""
            try:
                resolve_settings(options, environment)
            except UsageError as error:
                said = str(error)
            # what was given is shown by repr, or as printable() has it: no line or escape reaches a terminal
            assert said.isprintable() or said == printable(said)

    check()
