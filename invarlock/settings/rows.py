"""What a row of the table of settings says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: what the code calls it.
        help: what it does, for ``--help`` and the page.
        default: its value where nothing is given; None where it follows from the suite, or there is none.
        parse: reads the option's text and, unless ``parse_variable`` is given, the variable's.
        option: the option, None where there is only a variable.
        variables: the environment variables; the first that is set counts.
        flag: its option takes no value.
        many: its option may be given several times.
        shown: the default as the page shows it, where that is not its value.
        parse_variable: reads the variable's text.
        variable_means: the value by which the variable asks for what the option asks for.
        empty_counts: an empty variable is a value, and not a variable that is not set.
        path: a file or folder; a manifest names no folder of the machine.
        ambient: read by libraries from the environment, here only to be told and handed on.
        per_shard: about this machine or this session; the shards of one run may differ in it.
    """

    name: str
    help: str
    default: Any
    parse: Callable[[str], Any]
    option: str | None = None
    variables: tuple[str, ...] = ()
    flag: bool = False
    many: bool = False
    shown: str = ""
    parse_variable: Callable[[str], Any] | None = None
    variable_means: str = ""
    empty_counts: bool = False
    path: bool = False
    ambient: bool = False
    per_shard: bool = False

    @property
    def may_differ(self) -> bool:
        """Whether the shards of one run may differ in it; what files hold is compared, not where they are."""
        return self.path or self.ambient or self.per_shard

    def read_variable(self, text: str) -> Any:
        """Return the value of a variable's text.

        Raises:
            ValueError: saying what is allowed.
        """
        return (self.parse_variable or self.parse)(text)


@dataclass(frozen=True)
class Section:
    """Rows that belong together on the page."""

    title: str
    rows: tuple[Setting, ...]
