"""``docs/settings.md``, generated from the table."""

from __future__ import annotations

from invarlock.settings.rows import Setting
from invarlock.settings.table import SECTIONS

HEAD = """# Settings

An option beats its variable, a variable beats the config, the config beats the default; a variable that is empty
counts as not set. A flag's variable takes `0` or `1`, and also `false` or `true`. A run writes what it used, and where
each value came from (`option`, `variable`, `config`, `default`), to `state/settings.json` and into its pack's
manifest, where a path is reduced to its last part.

A run warns at its start of a variable that begins with `PACK_` or `INVARLOCK_` and that no setting has, and of a
setting that its mode does not read, such as `--run-dir` without `-m sentinel`.

With `INVARLOCK_TRACEBACK=1` the commands `invarlock` and `python -m invarlock.packer` show the traceback of an error
above its line; it is for people who work on InvarLock.

This page is written by `python -m invarlock.settings`.

## A config

`--edit-config site.yaml` reads settings and edit parameters from a YAML file, with PyYAML
(`pip install 'invarlock[yaml]'`). Its schema is `contracts/edit_config.schema.json`.

```yaml
settings:                      # by the names in the tables below; each value means what its option means
  tier: conservative
  profile: ci
  case_timeout: 90m
  scenario_ids: [quant_4bit_clean, prune_clean, nan_injection]
  keep_models: true            # a flag takes true or false
  tuned_params_file: tuned/all.json   # relative to the folder that the command runs in, as on a command line
edits:                         # entries as in tuned_edit_params.json, by model and edit
  mistralai/Mistral-7B-v0.1: !include edits/mistral.yaml
  embedded/mistral-tiny:
    magnitude_prune:
      sparsity: 0.1
      scope: ffn
      status: selected
      edit_dir_name: prune_clean
      reason: agreed with the people who serve it
```

An entry below `edits` takes the place of the file's for the same model and edit (`PACK_TUNED_EDIT_PARAMS_FILE`, or the
suites folder's). Where an option or a variable names that file, it wins, and the run warns that `edits` has no effect.
The pack's `metadata/tuned_edit_params.json` names the config in `given_by` of each of its entries.

`!include FILE` stands for what a file holds. The file is named relative to the one that includes it, and must lie in
the config's folder, links followed. With `INVARLOCK_CONFIG_ROOT=FOLDER` a config below `FOLDER` may include all that
lies there; `INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE=1` allows any file. A container is given each file that was read.

A config is refused, in one line, for a key that appears twice, a name that is not known, another tag than `!include`,
merge keys (`<<`), includes in a circle or more than 8 deep, more than 32 files of 256 KiB, more than 20,000 values (an
alias counts each time that it is used), and values nested more than 32 deep. Scalars are read as in JSON, so `off`,
`yes` and `1:30` are texts. A config cannot name itself, allow its own includes, or give what libraries read from the
environment (`CUDA_VISIBLE_DEVICES`, `HF_HOME` and the other caches, `TMPDIR`, `TMP`).
"""


def settings_page() -> str:
    """Return the page: a table a section, a row a setting."""
    lines = []
    for section in SECTIONS:
        lines += ["", f"## {section.title}", ""]
        lines += ["| name | option | variables | default | what it does |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(setting) for setting in section.rows]
    return HEAD + "\n".join(lines) + "\n"


def _row(setting: Setting) -> str:
    option = "–" if setting.option is None else f"`{setting.option}`"
    # some variables ask for the opposite: PACK_SIGN_MANIFEST=0 leaves a pack unsigned
    means = f"={setting.variable_means}" if setting.variable_means else ""
    variables = ", ".join(f"`{name}{means}`" for name in setting.variables) or "–"
    return f"| `{setting.name}` | {option} | {variables} | {shown_default(setting)} | {setting.help} |"


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
