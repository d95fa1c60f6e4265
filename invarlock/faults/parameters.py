"""Parsing the parameters of a fault: every name must be known, every value in range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from invarlock.errors import EditError


class Parameters:
    """The parameters of one fault, read one by one.

    A fault reads each of its parameters (``number("factor", 100.0)``) and then calls ``finish``, which
    refuses unknown ones and returns all used values including defaults.
    """

    def __init__(self, error_type: str, values: Mapping[str, Any]) -> None:
        self._error_type = error_type
        self._values = values
        self._used: dict[str, Any] = {}

    def number(self, name: str, default: float, *, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number from ``low`` to ``high``."""
        value = self._values.get(name, default)
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise self._refuse(name, value, f"a finite number{_range(low, high)}")
        self._used[name] = value
        return float(value)

    def count(self, name: str, default: int, *, low: int = 1) -> int:
        """Return a whole number of at least ``low``."""
        value = self._values.get(name, default)
        if type(value) is not int or value < low:
            raise self._refuse(name, value, f"a whole number of at least {low}")
        self._used[name] = value
        return value

    def text(self, name: str) -> str | None:
        """Return a text, None if it is not given."""
        value = self._values.get(name)
        if name in self._values and not (isinstance(value, str) and value):
            raise self._refuse(name, value, "a text")
        self._used[name] = value
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Return a list of distinct texts, None if it is not given."""
        value = self._values.get(name)
        if value is None and name not in self._values:
            self._used[name] = None
            return None
        whole = isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)
        if not value or not whole or len(set(value)) != len(value):
            raise self._refuse(name, value, "a list of distinct names")
        self._used[name] = list(value)
        return tuple(value)

    def choice(self, name: str, default: str, known: tuple[str, ...]) -> str:
        """Return one of the known texts."""
        value = self._values.get(name, default)
        if not isinstance(value, str) or value not in known:
            raise self._refuse(name, value, f"one of {', '.join(known)}")
        self._used[name] = value
        return value

    def finish(self) -> dict[str, Any]:
        """Return the used parameters; None means not given and without a default.

        Raises:
            EditError: when an unknown parameter was given.
        """
        unknown = sorted(self._values.keys() - self._used.keys())
        if unknown:
            known = ", ".join(self._used) or "none"
            raise EditError(f"fault {self._error_type}: unknown parameter {unknown[0]!r}; it takes {known}")
        return {name: value for name, value in self._used.items() if value is not None}

    def _refuse(self, name: str, value: object, wanted: str) -> EditError:
        return EditError(f"fault {self._error_type}: {name!r} is {str(value)[:80]!r}, it must be {wanted}")


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    return f" of at least {low:g}" if math.isinf(high) else f" from {low:g} to {high:g}"
