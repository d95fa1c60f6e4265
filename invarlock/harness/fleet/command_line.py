"""The command line and variables with which a node runs pytest: those of the controller, without its secrets.

The signing key, the pack and the run directory stay with the controller. The cluster assigns GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from invarlock.settings import SETTINGS

PLUGIN = "invarlock.harness.plugin"
# Settings that only the controller uses.
NOT_HANDED = frozenset(
    {
        "fleet", "slurm", "piece", "piece_seconds", "output_dir", "resume", "shard", "run_dir", "sentinel_model",
        "pack_dir", "signing_key", "unsigned", "defer_rendering", "skip_html", "gpu_ids", "num_gpus",
    }
)  # fmt: skip


def node_arguments(config: pytest.Config) -> tuple[str, ...]:
    """Return pytest's arguments on a node: the same tests by the same node ids, and the option of each setting."""
    option = config.option
    given = ["-p", PLUGIN, "-p", "no:cacheprovider", "-c", str(config.inipath or os.devnull)]
    given += ["--rootdir", str(config.rootpath), "--import-mode", option.importmode]
    given += [part for name in option.plugins or () if name != PLUGIN for part in ("-p", name)]
    given += [*map(str, config.args), "-m", option.markexpr]
    for setting in SETTINGS:
        if setting.option is None or setting.name in NOT_HANDED:
            continue
        value = config.getoption(f"invarlock_{setting.name}")
        if setting.flag:
            given += [setting.option] if value else []
        elif setting.many:
            given += [f"{setting.option}={one}" for one in value or ()]
        elif value is not None:
            given.append(f"{setting.option}={value}")
    return tuple(given)


def node_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of settings that are sent to a node; a node uses its own caches and visible GPUs."""
    handed = [setting for setting in SETTINGS if setting.name not in NOT_HANDED and not setting.ambient]
    return {name: environment[name] for setting in handed for name in setting.variables if name in environment}
