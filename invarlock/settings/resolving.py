"""Resolving the settings of a run from options, environment and config, and recording the source of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from invarlock.errors import UsageError, printable
from invarlock.problems import Code
from invarlock.settings.combinations import RELEASE_REVIEW_DEFAULTS, combination_problems
from invarlock.settings.edit_config import LOCATING, EditConfig, read_edit_config, read_from_config
from invarlock.settings.rows import Setting
from invarlock.settings.table import SETTINGS
from invarlock.settings.values import Settings, Source

# Values with these prefixes are paths; a manifest must not contain folders of the machine.
_PATH_STARTS = ("/", "~", "./", "../")


def public_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a run's settings for a manifest, without folders of the machine.

    A path is reduced to its last component, an address to its scheme; the cache locations of libraries are omitted.
    """
    addresses = {setting.name for setting in SETTINGS if setting.address}
    paths = {setting.name for setting in SETTINGS if setting.path}
    left_out = {setting.name for setting in SETTINGS if setting.path and setting.ambient}
    return {
        name: {**row, "value": _scheme(row["value"]) if name in addresses else _public(row["value"], name in paths)}
        for name, row in document.items()
        if name not in left_out
    }


def resolve_settings(options: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings of a run.

    Args:
        options: values given on the command line, by setting name; None, False or empty if not given.
        environment: the environment variables. An empty variable counts as unset, unless its row says otherwise.

    Raises:
        UsageError: when settings are invalid. The message lists each value that does not parse with its source and the
            allowed values, each invalid combination, and the problems of the config.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    problems: list[str] = []
    config = None
    try:
        config = _read_config(options, environment)
    except UsageError as error:
        problems.append(str(error))
    for setting in SETTINGS:
        name = setting.name
        values[name], sources[name] = setting.default, "default"
        try:
            values[name], sources[name] = _resolve(setting, options.get(name), environment, config)
        except UsageError as error:
            problems.append(str(error))
    settings = Settings(sources=sources, config=config, **values)
    if settings.release_review:
        settings = settings.with_defaults(RELEASE_REVIEW_DEFAULTS)
    problems += combination_problems(settings)
    if problems:
        raise UsageError.listing(problems, code=Code.SETTING_INVALID, separator="; ")
    return settings


def _read_config(options: Mapping[str, Any], environment: Mapping[str, str]) -> EditConfig | None:
    """Return the config given by options or environment, or None."""
    rows = {setting.name: setting for setting in SETTINGS}
    path, root, include_outside = (_resolve(rows[name], options.get(name), environment, None)[0] for name in LOCATING)
    if path is None:
        return None
    return read_edit_config(Path(path), root=None if root is None else Path(root), include_outside=include_outside)


def _resolve(
    setting: Setting, given: Any, environment: Mapping[str, str], config: EditConfig | None
) -> tuple[Any, Source]:
    """Return the value of a setting, and its source.

    Raises:
        UsageError: when the value is not allowed.
    """
    variable = next((one for one in setting.variables if _is_set(setting, environment.get(one))), None)
    written = None if config is None else config.settings.get(setting.name)
    where, shown = "", None
    try:
        if given not in (None, False, [], ()):
            where, shown = str(setting.option), given
            return _of_option(setting, given), "option"
        if variable is not None:
            where, shown = variable, environment[variable]
            value = setting.read_variable(environment[variable])
            # a variable may set nothing, for example INVARLOCK_ALLOW_HOST_EXECUTION=0
            if value is not None:
                return value, "variable"
        if config is not None and written is not None and (written != "" or setting.empty_counts):
            where, shown = f"{printable(str(config.path))}: settings: {setting.name}", written
            return read_from_config(setting, written), "config"
    except ValueError as error:
        raise UsageError(f"{shown!r} is not allowed (use {error})", code=Code.SETTING_INVALID, where=where) from None
    return setting.default, "default"


def _of_option(setting: Setting, given: Any) -> Any:
    if setting.flag:
        return True
    if setting.many:
        return tuple(setting.parse(str(one)) for one in given)
    return setting.parse(str(given))


def _is_set(setting: Setting, text: str | None) -> bool:
    return text is not None and (text != "" or setting.empty_counts)


def _scheme(value: str | None) -> str | None:
    return None if value is None else value.partition("://")[0]


def _public(value: Any, is_path: bool) -> Any:
    if isinstance(value, list):
        return [_public(one, is_path) for one in value]
    if isinstance(value, str) and (is_path or value.startswith(_PATH_STARTS)):
        return PurePath(value).name
    return value
