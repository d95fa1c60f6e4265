"""The settings of a suite run: each has an option, environment variables, a default and a parser.

An option overrides its variable, a variable overrides the default. pytest's options, ``--help``, the docs table and
``state/settings.json`` are generated from the rows of ``table``.
"""

from invarlock.settings.ignored import Mode, unknown_variables, unread_settings
from invarlock.settings.page import settings_page
from invarlock.settings.resolving import public_settings, resolve_settings
from invarlock.settings.rows import Setting
from invarlock.settings.table import SETTINGS
from invarlock.settings.values import Settings, Source

__all__ = [
    "SETTINGS",
    "Mode",
    "Setting",
    "Settings",
    "Source",
    "public_settings",
    "resolve_settings",
    "settings_page",
    "unknown_variables",
    "unread_settings",
]
