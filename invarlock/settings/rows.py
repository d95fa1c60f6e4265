"""The rows of the table of settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: the name in code and configs.
        help: the description, for ``--help`` and the page.
        default: the default value; None if it depends on the suite, or there is no default.
        parse: parses the option's text and, unless ``parse_variable`` is given, the variable's.
        option: the option, None if the setting has only a variable.
        variables: the environment variables; the first one that is set is used.
        flag: whether the option takes no value.
        many: whether the option may be given several times.
        shown: the default as shown on the page, if it differs from the value.
        parse_variable: parses the variable's text.
        variable_means: the value of the variable that has the effect of the option.
        empty_counts: whether an empty variable counts as a value instead of as unset.
        path: whether the value is a file or folder, which a manifest must not contain.
        ambient: whether libraries read the setting from the environment; it is only recorded and passed on here.
        per_shard: whether the setting is specific to a machine or session, so that shards of one run may differ in it.
        address: whether the value may contain a network address, which a manifest must not contain.
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
    address: bool = False

    @property
    def may_differ(self) -> bool:
        """Whether the shards of one run may differ in it; files are compared by content, not by path."""
        return self.path or self.ambient or self.per_shard

    def read_variable(self, text: str) -> Any:
        """Parse the text of a variable.

        Raises:
            ValueError: when the text is invalid; the message has the allowed values.
        """
        return (self.parse_variable or self.parse)(text)


@dataclass(frozen=True)
class Section:
    """A group of rows on the page."""

    title: str
    rows: tuple[Setting, ...]
