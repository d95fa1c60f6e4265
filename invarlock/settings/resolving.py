"""From options and environment to the settings of a run, each with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from invarlock.errors import UsageError
from invarlock.settings.combinations import RELEASE_REVIEW_DEFAULTS, combination_problems
from invarlock.settings.rows import Setting
from invarlock.settings.table import SETTINGS

Source = Literal["option", "variable", "default"]

# What begins like this is a path, and a manifest names no folder of the machine.
_PATH_STARTS = ("/", "~", "./", "../")


@dataclass(frozen=True)
class Settings:
    """The resolved settings, and where each value came from."""

    values: Mapping[str, Any]
    sources: Mapping[str, Source]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def given(self, name: str) -> bool:
        """Tell whether an option or a variable gave the value."""
        return self.sources[name] != "default"

    def with_defaults(self, defaults: Mapping[str, Any]) -> Settings:
        """Return the settings with other values where none was given."""
        return replace(self, values={**self.values, **{k: v for k, v in defaults.items() if not self.given(k)}})

    def document(self) -> dict[str, Any]:
        """Return what goes to ``state/settings.json``: value and source by name."""
        return {
            name: {"value": list(value) if isinstance(value, tuple) else value, "source": self.sources[name]}
            for name, value in self.values.items()
        }


def public_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a run's settings for a manifest, which names no folder of the machine.

    A path is reduced to its last part; where libraries keep their caches is left out.
    """
    paths = {setting.name for setting in SETTINGS if setting.path}
    left_out = {setting.name for setting in SETTINGS if setting.path and setting.ambient}
    return {
        name: {**row, "value": _public(row["value"], name in paths)}
        for name, row in document.items()
        if name not in left_out
    }


def resolve_settings(options: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings of a run.

    Args:
        options: values given on the command line, by setting name; None, False or empty where not given.
        environment: the environment variables. A variable that is empty counts as not set, unless its row says so.

    Raises:
        UsageError: naming each value that does not parse, where it came from and what is allowed, and each
            combination that cannot work.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for setting in SETTINGS:
        name = setting.name
        values[name], sources[name], where = setting.default, "default", ""
        given = options.get(name)
        variable = next((one for one in setting.variables if _is_set(setting, environment.get(one))), None)
        try:
            if given not in (None, False, [], ()):
                where, sources[name] = str(setting.option), "option"
                values[name] = _of_option(setting, given)
            elif variable is not None:
                where, sources[name] = variable, "variable"
                values[name] = setting.read_variable(environment[variable])
                if values[name] is None:
                    # such as INVARLOCK_ALLOW_HOST_EXECUTION=0, which asks for nothing
                    sources[name] = "default"
        except ValueError as error:
            shown = environment[str(variable)] if sources[name] == "variable" else given
            problems.append(f"{where}: {shown!r} is not allowed, it takes {error}")
            continue
        if setting.not_yet is not None and values[name] != setting.default:
            problems.append(f"{where}: this version has no {setting.not_yet} yet; leave it out")
    settings = Settings(values, sources)
    if settings["release_review"]:
        settings = settings.with_defaults(RELEASE_REVIEW_DEFAULTS)
    problems += combination_problems(settings)
    if problems:
        raise UsageError("; ".join(problems))
    return settings


def _of_option(setting: Setting, given: Any) -> Any:
    if setting.flag:
        return True
    if setting.many:
        return tuple(setting.parse(str(one)) for one in given)
    return setting.parse(str(given))


def _is_set(setting: Setting, text: str | None) -> bool:
    return text is not None and (text != "" or setting.empty_counts)


def _public(value: Any, is_path: bool) -> Any:
    if isinstance(value, list):
        return [_public(one, is_path) for one in value]
    if isinstance(value, str) and (is_path or value.startswith(_PATH_STARTS)):
        return PurePath(value).name
    return value
