"""The YAML file of ``--edit-config``: values of settings, and edit parameters by model.

settings:
  tier: conservative
  scenario_ids: [quant_4bit_clean, nan_injection]
edits: !include edits.yaml
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.errors import DocumentError, UsageError, printable
from invarlock.nearest import did_you_mean
from invarlock.problems import Code
from invarlock.settings.rows import Setting
from invarlock.settings.table import SETTINGS

TABLES = ("settings", "edits")
# These locate the file and limit its includes; a file must not extend its own limits.
LOCATING = ("edit_config", "config_root", "allow_config_include_outside")


@dataclass(frozen=True)
class EditConfig:
    """The content of a config file.

    Attributes:
        path: the path as given by the user.
        settings: the text of each value by setting name; a list has several texts.
        edits: entries by model id and edit, as in ``tuned_edit_params.json``.
        files: the file and all included files, as absolute paths.
    """

    path: Path
    settings: Mapping[str, str | tuple[str, ...]]
    edits: Mapping[str, Mapping[str, Mapping[str, Any]]]
    files: tuple[Path, ...]


def read_edit_config(path: Path, *, root: Path | None = None, include_outside: bool = False) -> EditConfig:
    """Read a config file.

    Args:
        path: the file.
        root: ``INVARLOCK_CONFIG_ROOT``: a config inside this folder may include any file in it; any other config may
            include files only from its own folder.
        include_outside: whether the config may include any file.

    Raises:
        UsageError: when the config cannot be used; the message is one line with the file and the problem.
    """
    # imported here because they take 60 ms, and most runs have no config
    from invarlock.jsonio import check_schema
    from invarlock.settings.yaml_files import read_yaml

    where = printable(str(path))
    folder = None if include_outside else _folder(path, root)
    document = read_yaml(path, folder=folder, texts=("settings",))
    value = document.value
    if not isinstance(value, dict) or not value:
        raise UsageError(
            "has neither settings nor edits; see docs/settings.md for an example",
            code=Code.CONFIG_MALFORMED,
            where=where,
        )
    for name in value:
        if name not in TABLES:
            near = did_you_mean(name, TABLES)
            raise UsageError(
                f"unknown key {name[:80]!r}{near}; a config has settings and edits",
                code=Code.CONFIG_MALFORMED,
                where=where,
            )
    settings = value.get("settings") or {}
    if isinstance(settings, dict):
        problems = [f"{where}: settings: {found}" for name in settings if (found := _name_problem(name)) is not None]
        if problems:
            raise UsageError.listing(problems, code=Code.CONFIG_MALFORMED, separator="; ")
    try:
        check_schema({name: table for name, table in value.items() if table is not None}, "edit_config", where=where)
    except DocumentError as error:
        raise UsageError(printable(str(error)), code=Code.CONFIG_MALFORMED) from None
    texts = {name: _texts(given) for name, given in settings.items() if given is not None}
    return EditConfig(path, texts, value.get("edits") or {}, document.files)


def read_from_config(setting: Setting, given: str | tuple[str, ...]) -> Any:
    """Parse a setting's value in a config in the same way as the text of its option.

    Raises:
        ValueError: when the value is invalid; the message has the allowed values.
    """
    if setting.many:
        return tuple(setting.parse(one) for one in ((given,) if isinstance(given, str) else given))
    if isinstance(setting.default, bool):
        flags = {"true": True, "1": True, "false": False, "0": False}
        if not isinstance(given, str) or given.lower() not in flags:
            raise ValueError("true or false")
        return flags[given.lower()]
    return setting.parse(given if isinstance(given, str) else ",".join(given))


def may_be_in_config(setting: Setting) -> bool:
    """Return whether a config may contain a setting.

    A config may not contain its own location, variables that libraries read, or what ``--fleet`` sets on nodes.
    """
    return setting.name not in (*LOCATING, "piece") and not setting.ambient


def _folder(path: Path, root: Path | None) -> Path:
    file = Path(os.path.normpath(Path.cwd() / path))
    if root is None:
        return file.parent
    root = Path(os.path.normpath(Path.cwd() / root))
    try:
        is_folder = root.is_dir()
    except ValueError:
        is_folder = False
    if not is_folder:
        raise UsageError(f"INVARLOCK_CONFIG_ROOT: {printable(str(root))}: no such folder", code=Code.SETTING_INVALID)
    return root if file.is_relative_to(root) else file.parent


def _name_problem(name: str) -> str | None:
    rows = {setting.name: setting for setting in SETTINGS}
    if name in rows:
        if may_be_in_config(rows[name]):
            return None
        by = " or ".join(one for one in (rows[name].option, *rows[name].variables) if one)
        return f"{name} cannot be set in a config; use {by}"
    for setting in SETTINGS:
        if name in (setting.option, *setting.variables):
            return f"{name!r} is named {setting.name} in a config; docs/settings.md has the names"
    return f"unknown setting {name[:80]!r}{did_you_mean(name, rows)}; docs/settings.md has the names"


def _texts(given: Any) -> str | tuple[str, ...]:
    return tuple(given) if isinstance(given, list) else str(given)
