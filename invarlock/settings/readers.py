"""Parsers for the text of an option or a variable; they raise a ValueError with the allowed values."""

from __future__ import annotations

import re
from collections.abc import Callable

from invarlock.errors import UsageError
from invarlock.judgement.expectations import FORMS, parse_expectation

_DURATION = re.compile(r"([0-9]{1,9})(s|m|h)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHARD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")
_FLEET = re.compile(r"slurm|ray(://[^\s/@]+:[0-9]{1,5})?")


def text(given: str) -> str:
    """Return the text unchanged."""
    return given


def flag(given: str) -> bool:
    """Return whether a switch is on.

    Raises:
        ValueError: unless the text is 0, 1, false or true.
    """
    # shell scripts use true and false
    if given not in ("0", "1", "false", "true"):
        raise ValueError("0 or 1")
    return given in ("1", "true")


def opposite(given: str) -> bool:
    """Parse a variable that means the opposite of its option."""
    return not flag(given)


def names(given: str) -> tuple[str, ...]:
    """Parse comma-separated names.

    Raises:
        ValueError: when there is no name.
    """
    found = tuple(part.strip() for part in given.split(",") if part.strip())
    if not found:
        raise ValueError("names separated by commas")
    return found


def choice(*choices: str) -> Callable[[str], str]:
    """Return a reader that accepts only the given words."""

    def read(given: str) -> str:
        if given not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return given

    return read


def edit_label(given: str) -> str:
    """Parse the label of an edit in reports."""
    if not _LABEL.fullmatch(given):
        raise ValueError("a name of letters, digits, dots, dashes and underscores, such as gptq or custom")
    return given


def expectation(given: str) -> str:
    """Parse a declared change of structure."""
    try:
        return str(parse_expectation(given))
    except UsageError:
        raise ValueError(FORMS) from None


def host_word(given: str) -> str:
    """Return the user's word for an execution mode; ``host-bypass``, the word in reports for host, is accepted too."""
    return "host" if given == "host-bypass" else given


def execution_mode(given: str) -> str:
    """Parse an execution mode."""
    return choice("container", "host")(host_word(given))


def some_of(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser for comma-separated names that must be among the choices and have no duplicates."""

    def read(given: str) -> tuple[str, ...]:
        found = tuple(part.strip() for part in given.split(","))
        if len(set(found)) != len(found) or not set(found) <= set(choices):
            raise ValueError(f"some of {', '.join(choices)}, separated by commas, each once")
        return found

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(given: str) -> int:
        # ten digits are enough for every bound, so longer text need not be parsed
        if not given.isascii() or not given.isdigit() or len(given) > 10 or not low <= int(given) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(given)

    return read


def gigabytes(given: str) -> float:
    """Parse a size in GB (10⁹ bytes)."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", given):
        raise ValueError("a number of GB, such as 24 or 0.5")
    return float(given)


def seconds(given: str) -> int:
    """Parse a duration such as ``90``, ``90s``, ``15m`` or ``6h``; return seconds."""
    match = _DURATION.fullmatch(given)
    value = int(match[1]) * _SECONDS[match[2] or "s"] if match else 0
    if not 0 < value <= 10**9:
        raise ValueError("a time such as 90s, 15m or 6h")
    return value


def shard(given: str) -> tuple[int, int]:
    """Parse ``i/n``: the i-th of n parts, counted from 1."""
    match = _SHARD.fullmatch(given)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError("i/n with i from 1 to n, such as 1/3")
    return int(match[1]), int(match[2])


def fleet(given: str) -> str:
    """Parse ``ray``, ``ray://HOST:PORT`` or ``slurm``."""
    if not _FLEET.fullmatch(given):
        raise ValueError("ray, ray://HOST:PORT such as ray://10.0.0.1:10001, or slurm")
    return given


def slurm_parameter(given: str) -> tuple[str, str]:
    """Parse ``NAME=VALUE``."""
    name, separator, value = given.partition("=")
    if not separator or not re.fullmatch(r"[a-z_]{1,40}", name) or not value:
        raise ValueError("NAME=VALUE, such as partition=gpu")
    return name, value


def host_execution(given: str) -> str | None:
    """Parse ``INVARLOCK_ALLOW_HOST_EXECUTION``: 1 means execution on the host, 0 sets nothing."""
    return "host" if flag(given) else None
