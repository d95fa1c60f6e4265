"""``docs/settings.md``, generated from the table."""

from __future__ import annotations

from invarlock.settings.rows import Setting
from invarlock.settings.table import SECTIONS

HEAD = """# Settings

An option beats its variable, a variable beats the default; a variable that is empty counts as not set. A flag's
variable takes `0` or `1`. A run writes what it used, and where each value came from (`option`, `variable`, `default`),
to `state/settings.json` and into its pack's manifest, where a path is reduced to its last part.

A run warns at its start of a variable that begins with `PACK_` or `INVARLOCK_` and that no setting has, and of a
setting that its mode does not read, such as `--run-dir` without `-m sentinel`.

With `INVARLOCK_TRACEBACK=1` the commands `invarlock` and `python -m invarlock.packer` show the traceback of an error
above its line; it is for people who work on InvarLock.

This page is written by `python -m invarlock.settings`.
"""


def settings_page() -> str:
    """Return the page: a table a section, a row a setting."""
    lines = []
    for section in SECTIONS:
        lines += ["", f"## {section.title}", ""]
        lines += ["| option | variables | default | what it does |", "| --- | --- | --- | --- |"]
        lines += [_row(setting) for setting in section.rows]
    return HEAD + "\n".join(lines) + "\n"


def _row(setting: Setting) -> str:
    option = "–" if setting.option is None else f"`{setting.option}`"
    # some variables ask for the opposite: PACK_SIGN_MANIFEST=0 leaves a pack unsigned
    means = f"={setting.variable_means}" if setting.variable_means else ""
    variables = ", ".join(f"`{name}{means}`" for name in setting.variables) or "–"
    missing = "" if setting.not_yet is None else " *(not in this version)*"
    return f"| {option} | {variables} | {shown_default(setting)} | {setting.help}{missing} |"


def shown_default(setting: Setting) -> str:
    """Return a default as a person would write it."""
    if setting.shown:
        return setting.shown.replace("<", "&lt;")
    if setting.default is None:
        return "–"
    if isinstance(setting.default, bool):
        return "on" if setting.default else "off"
    if isinstance(setting.default, tuple):
        return f"`{','.join(setting.default)}`"
    return f"`{setting.default}`"
