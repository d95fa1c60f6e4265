"""Every setting of a suite run, once: its option, its environment variables, default, and how its text is read.

An option beats its variable, a variable beats the default. pytest's options, ``--help``, the docs table and
``state/settings.json`` come from the rows of ``table``.
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
